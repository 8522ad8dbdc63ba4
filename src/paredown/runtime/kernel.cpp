// Sparse convolution on images in blocks. Maps are stored as [blocks][channels][height][width][LANES images], so that
// one weight multiplies one vector of images, whatever its tap, the stride and the border. A block has as many images
// as a register has floats (16 of AVX-512, 8 of AVX2): GCC keeps wider vectors in memory, and few images fill it.
// Doubles take two registers.
//
// Filters with the same sparsity pattern form a group and share loads: `F` filters and `P` output positions are
// accumulated in registers at once. Positions at the border skip the taps outside the image instead of padding it.
// Zero weights are never multiplied. Maps and weights in bfloat16 are widened as they are loaded: sums are in float.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

namespace {

constexpr int64_t SMALL = 64;  // pixels of a map of which threads share the filters, not the rows
#if defined(__AVX512F__)
constexpr int BYTES = 64, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int BYTES = 32, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int BYTES = 16, REGISTERS = 32;
#else
constexpr int BYTES = 16, REGISTERS = 16;
#endif
constexpr int LANES = BYTES / sizeof(float);

struct bfloat16 { uint16_t bits; };  // the upper half of a float

// How values of type S are stored and summed: `type` is a register of sums, for a part of the block's images.
template <typename S> struct Vector {
    using Sum = S;
    static constexpr int lanes = BYTES / sizeof(S);
    typedef S type __attribute__((vector_size(BYTES), aligned(sizeof(S))));
    static Sum widened(S value) { return value; }
    static type load(const S *from) { return *(const type *)from; }
    static void store(S *to, type sums) { *(type *)to = sums; }
};

template <> struct Vector<bfloat16> {
    using Sum = float;
    static constexpr int lanes = BYTES / sizeof(float);
    typedef float type __attribute__((vector_size(BYTES), aligned(sizeof(float))));
    typedef uint32_t Wide __attribute__((vector_size(BYTES)));
    typedef uint16_t Half __attribute__((vector_size(BYTES / 2), aligned(sizeof(uint16_t))));
    static Sum widened(bfloat16 value) {
        const uint32_t bits = (uint32_t)value.bits << 16;
        float found;
        std::memcpy(&found, &bits, sizeof found);
        return found;
    }
    static type load(const bfloat16 *from) { return (type)(__builtin_convertvector(*(const Half *)from, Wide) << 16); }
    static void store(bfloat16 *to, type sums) {  // rounded to nearest, ties to even, as torch does
        const Wide bits = (Wide)sums, rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        *(Half *)to = __builtin_convertvector(sums == sums ? rounded : (Wide{} + 0x7fc0), Half);
    }
};

template <typename S> struct Layer {
    using Sum = typename Vector<S>::Sum;
    const S *input, *residual, *weights, *bias;
    S *output;
    Sum low, high;  // of the fused activation: the result is clamped to [low, high]
    int64_t in_step, out_step, unit;  // values between two channels, and between two pixels
};

struct Position { int64_t block, input, output; };  // offsets of a part within a channel's map

template <typename S, int F, int P>
void tile(const Layer<S> &layer, const S *const *in, S *const *out, const S *const *extra, const int32_t *filters,
          const int64_t *offsets, const int32_t *places, int64_t entries, const typename Vector<S>::Sum *weights,
          int64_t pitch) {
    using V = typename Vector<S>::type;
    V sums[F][P];
#pragma GCC unroll 16
    for (int f = 0; f < F; f++)
#pragma GCC unroll 16
        for (int p = 0; p < P; p++) sums[f][p] = V{} + Vector<S>::widened(layer.bias[filters[f]]);
    for (int64_t k = 0; k < entries; k++) {
        const auto *w = weights + places[k] * pitch;
        V x[P];
#pragma GCC unroll 16
        for (int p = 0; p < P; p++) x[p] = Vector<S>::load(in[p] + offsets[k]);
#pragma GCC unroll 16
        for (int f = 0; f < F; f++)
#pragma GCC unroll 16
            for (int p = 0; p < P; p++) sums[f][p] += x[p] * w[f];
    }
#pragma GCC unroll 16
    for (int f = 0; f < F; f++)
#pragma GCC unroll 16
        for (int p = 0; p < P; p++) {
            int64_t at = filters[f] * layer.out_step;
            V y = sums[f][p];
            if (layer.residual) y += Vector<S>::load(extra[p] + at);
            y = y < layer.low ? V{} + layer.low : y;
            y = y > layer.high ? V{} + layer.high : y;
            Vector<S>::store(out[p] + at, y);
        }
}

template <typename S>
using Tile = void (*)(const Layer<S> &, const S *const *, S *const *, const S *const *, const int32_t *, const int64_t *,
                      const int32_t *, int64_t, const typename Vector<S>::Sum *, int64_t);

// The positions whose sums, together with a vector of each and a weight, fit into the registers.
constexpr int widest(int filters) {
    if (REGISTERS < 32) return filters == 1 ? 8 : filters == 2 ? 5 : 3;
    return filters == 1 ? 12 : filters == 2 ? 8 : filters == 4 ? 6 : 3;
}
constexpr int MOST = REGISTERS < 32 ? 4 : 8;  // filters at once

template <typename S, int F, int P> Tile<S> pick(int positions) {
    if constexpr (P == 1) return tile<S, F, 1>;
    else return positions == P ? tile<S, F, P> : pick<S, F, P - 1>(positions);
}

template <typename S> Tile<S> choose(int filters, int positions) {
    switch (filters) {
        case 1: return pick<S, 1, widest(1)>(positions);
        case 2: return pick<S, 2, widest(2)>(positions);
        case 4: return pick<S, 4, widest(4)>(positions);
        default: return pick<S, MOST, widest(MOST)>(positions);
    }
}

struct Shape {
    int64_t blocks, channels, height, width, filters, out_height, out_width;
    int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
};

// The taps [first, last) that are inside the image for output coordinate `at`.
inline void inside(int64_t at, int64_t stride, int64_t pad, int64_t dilation, int64_t kernel, int64_t size,
                   int64_t &first, int64_t &last) {
    int64_t start = at * stride - pad;
    first = start >= 0 ? 0 : (-start + dilation - 1) / dilation;
    last = start >= size ? 0 : std::min(kernel, (size - 1 - start) / dilation + 1);
    if (last < first) last = first;
}

struct Edge {  // positions with the same taps inside the image
    int64_t top, bottom, left, right;
    std::vector<Position> positions;
};

std::vector<Edge> edges_of(const Shape &s, int64_t row, int64_t rows, int64_t block, int64_t blocks, int lanes) {
    std::vector<Edge> edges;
    for (int64_t b = block; b < block + blocks; b++)
        for (int64_t y = row; y < row + rows; y++)
            for (int64_t x = 0; x < s.out_width; x++) {
                int64_t top, bottom, left, right;
                inside(y, s.stride_h, s.pad_h, s.dilation_h, s.kernel_h, s.height, top, bottom);
                inside(x, s.stride_w, s.pad_w, s.dilation_w, s.kernel_w, s.width, left, right);
                auto same = [&](const Edge &e) {
                    return e.top == top && e.bottom == bottom && e.left == left && e.right == right;
                };
                auto found = std::find_if(edges.begin(), edges.end(), same);
                if (found == edges.end()) found = edges.insert(edges.end(), Edge{top, bottom, left, right, {}});
                int64_t in = (y * s.stride_h - s.pad_h) * s.width + x * s.stride_w - s.pad_w;
                for (int part = 0; part < LANES; part += lanes)
                    found->positions.push_back({b, in * LANES + part, (y * s.out_width + x) * LANES + part});
            }
    return edges;
}

// Convolve the positions of `edges`. `chunks` (n, 4): filters, first entry, entries, first weight; `entries` (m, 3):
// channel, row and column of the tap; `order`: filter indices in the order of the chunks.
template <typename S>
void slab(const Layer<S> &layer, const Shape &s, const std::vector<Edge> &edges, const int32_t *chunks, int64_t n,
          const int32_t *entries, const int32_t *order) {
    std::vector<int64_t> offsets;
    std::vector<int32_t> places;
    std::vector<typename Vector<S>::Sum> widened;
    const int32_t *filters = order;
    for (int64_t c = 0; c < n; filters += chunks[4 * c], c++) {
        const int F = chunks[4 * c], first = chunks[4 * c + 1], count = chunks[4 * c + 2], at = chunks[4 * c + 3];
        offsets.resize(count);
        places.resize(count);
        const typename Vector<S>::Sum *weights;
        if constexpr (std::is_same_v<S, typename Vector<S>::Sum>) weights = layer.weights + at;
        else {  // once for all positions
            widened.resize((size_t)count * F);
            std::transform(layer.weights + at, layer.weights + at + (size_t)count * F, widened.begin(), Vector<S>::widened);
            weights = widened.data();
        }
        for (const Edge &edge : edges) {
            int64_t seen = 0;
            for (int32_t k = 0; k < count; k++) {
                const int32_t *entry = entries + 3 * (first + k);
                const int64_t channel = entry[0], dy = entry[1], dx = entry[2];
                offsets[seen] = channel * layer.in_step + (dy * s.dilation_h * s.width + dx * s.dilation_w) * layer.unit;
                places[seen] = k;
                seen += dy >= edge.top && dy < edge.bottom && dx >= edge.left && dx < edge.right;
            }
            const int G = std::min(F, MOST);
            const int64_t all = edge.positions.size(), most = widest(G);
            for (int64_t left = all, done = 0; left > 0;) {
                const int P = left >= 2 * most || left <= most ? std::min(left, most) : (left + 1) / 2;
                const S *in[12], *extra[12] = {};
                S *out[12];
                for (int p = 0; p < P; p++) {
                    const Position &where = edge.positions[done + p];
                    int64_t to = where.block * s.filters * layer.out_step + where.output;
                    in[p] = layer.input + where.block * s.channels * layer.in_step + where.input;
                    out[p] = layer.output + to;
                    if (layer.residual) extra[p] = layer.residual + to;
                }
                for (int f = 0; f < F; f += G)
                    choose<S>(G, P)(layer, in, out, extra, filters + f, offsets.data(), places.data(), seen,
                                    weights + f, F);
                done += P;
                left -= P;
            }
        }
    }
}

// The filters of each chunk, in `order`.
std::vector<const int32_t *> starts_of(const int32_t *chunks, int64_t n, const int32_t *order) {
    std::vector<const int32_t *> starts{order};
    for (int64_t c = 0; c < n; c++) starts.push_back(starts.back() + chunks[4 * c]);
    return starts;
}

// Choose how many output rows and blocks of images form one task, such that its input fits into the cache.
template <typename S> void portions(const Shape &s, int64_t threads, int64_t &rows, int64_t &blocks) {
    const int64_t room = 1 << 20, row = std::max<int64_t>(1, s.channels * s.width * LANES * (int64_t)sizeof(S));
    const int64_t halo = (s.kernel_h - 1) * s.dilation_h;
    rows = std::clamp<int64_t>((room / row - halo) / s.stride_h, 1, s.out_height);
    blocks = rows < s.out_height ? 1 : std::clamp<int64_t>(room / (row * std::max<int64_t>(1, s.height)), 1, s.blocks);
    while (blocks > 1 && (s.blocks + blocks - 1) / blocks < threads) blocks--;
    while (rows > 1 && (s.blocks + blocks - 1) / blocks * ((s.out_height + rows - 1) / rows) < threads) rows--;
    const int64_t along = (s.blocks + blocks - 1) / blocks, down = (s.out_height + rows - 1) / rows;
    blocks = (s.blocks + along - 1) / along;  // as equal as they can be: the last portion is nobody's wait
    rows = (s.out_height + down - 1) / down;
}

// Return whether there was memory for the buffers.
template <typename S>
bool convolve(const S *input, const S *weights, const S *bias, const S *residual, S *output, const int32_t *chunks,
              int64_t n, const int32_t *entries, const int32_t *order, const int64_t *shape, double low, double high,
              int64_t threads) {
    using Sum = typename Vector<S>::Sum;
    Shape s;
    std::copy(shape, shape + sizeof(Shape) / sizeof(int64_t), (int64_t *)&s);
    const int64_t in_step = s.height * s.width * LANES, out_step = s.out_height * s.out_width * LANES;
    const Layer<S> layer{input, residual, weights, bias, output, (Sum)low, (Sum)high, in_step, out_step, LANES};
    if (s.blocks < 1 || s.filters < 1 || s.out_height < 1 || s.out_width < 1) return true;  // there is nothing to do
    const bool small = s.out_height * s.out_width <= SMALL;
    int64_t rows, blocks;
    portions<S>(s, small ? 1 : threads, rows, blocks);
    const int64_t down = (s.out_height + rows - 1) / rows, along = (s.blocks + blocks - 1) / blocks;
    const int64_t parts = small && threads > 1 ? std::clamp<int64_t>(4 * threads / (down * along), 1, n) : 1;
    const auto filters = starts_of(chunks, n, order);
    std::atomic<bool> enough{true};
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
    for (int64_t i = 0; i < down * along * parts; i++) try {
        const int64_t row = i / parts % down * rows, block = i / parts / down * blocks, part = i % parts;
        const int64_t first = n * part / parts, last = n * (part + 1) / parts;
        const auto edges =
            edges_of(s, row, std::min(rows, s.out_height - row), block, std::min(blocks, s.blocks - block),
                     Vector<S>::lanes);
        slab(layer, s, edges, chunks + 4 * first, last - first, entries, filters[first]);
    } catch (const std::bad_alloc &) { enough = false; }  // which must not leave the parallel region
    return enough;
}

// The same for few images: maps [images][channels][height][width], in and out. They are copied to maps with their
// borders in them, so that every tap is inside and a vector holds neighbouring pixels, running from one row into the
// next. Of the rows of sums, as wide as those of the input, what is meaningful is copied to `output`. Strides are 1,
// and there is no residual. Threads share the filters: small maps have no other work to share.
template <typename S>
bool convolve_pixels(const S *input, const S *weights, const S *bias, const S *, S *output, const int32_t *chunks,
                     int64_t n, const int32_t *entries, const int32_t *order, const int64_t *shape, double low,
                     double high, int64_t threads) {
    using Sum = typename Vector<S>::Sum;
    Shape s;
    std::copy(shape, shape + sizeof(Shape) / sizeof(int64_t), (int64_t *)&s);
    if (s.blocks < 1 || s.filters < 1 || s.out_height < 1 || s.out_width < 1) return true;
    const int64_t lanes = Vector<S>::lanes, width = s.width + 2 * s.pad_w, plane = (s.height + 2 * s.pad_h) * width;
    const int64_t meaningful = (s.out_height - 1) * width + s.out_width, step = meaningful + lanes;
    std::vector<S> maps(s.blocks * s.channels * plane + lanes);  // the last vector reads and writes behind a map
    const std::unique_ptr<S[]> sums(new S[s.blocks * s.filters * step]);
    for (int64_t i = 0; i < s.blocks * s.channels; i++)
        for (int64_t y = 0; y < s.height; y++)
            std::copy_n(input + (i * s.height + y) * s.width, s.width,
                        maps.begin() + i * plane + (y + s.pad_h) * width + s.pad_w);
    const Layer<S> layer{maps.data(), nullptr, weights, bias, sums.get(), (Sum)low, (Sum)high, plane, step, 1};
    std::vector<Edge> edges{{0, s.kernel_h, 0, s.kernel_w, {}}};
    for (int64_t image = 0; image < s.blocks; image++)
        for (int64_t at = 0; at < meaningful; at += lanes) edges[0].positions.push_back({image, at, at});
    const auto filters = starts_of(chunks, n, order);
    s.width = width;
    const int64_t piece = std::max<int64_t>(1, n / (4 * threads));
    std::atomic<bool> enough{true};
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
    for (int64_t c = 0; c < n; c += piece) try {
        const int64_t end = std::min(n, c + piece);
        slab(layer, s, edges, chunks + 4 * c, end - c, entries, filters[c]);
        for (const int32_t *filter = filters[c]; filter < filters[end]; filter++)
            for (int64_t image = 0; image < s.blocks; image++)
                for (int64_t y = 0, at = image * s.filters + *filter; y < s.out_height; y++)
                    std::copy_n(sums.get() + at * step + y * width, s.out_width,
                                output + (at * s.out_height + y) * s.out_width);
    } catch (const std::bad_alloc &) { enough = false; }
    return enough;
}

}  // namespace

#define CONVOLVE(NAME, FUNCTION, T)                                                                                   \
    extern "C" bool NAME(const T *input, const T *weights, const T *bias, const T *residual, T *output,               \
                         const int32_t *chunks, int64_t n, const int32_t *entries, const int32_t *order,              \
                         const int64_t *shape, double low, double high, int64_t threads) {                            \
        try {                                                                                                         \
            return FUNCTION<T>(input, weights, bias, residual, output, chunks, n, entries, order, shape, low, high,   \
                               threads);                                                                              \
        } catch (const std::exception &) { return false; }                                                            \
    }
CONVOLVE(convolve_float, convolve, float)
CONVOLVE(convolve_double, convolve, double)
CONVOLVE(convolve_bfloat16, convolve, bfloat16)
CONVOLVE(convolve_pixels_float, convolve_pixels, float)
CONVOLVE(convolve_pixels_double, convolve_pixels, double)
CONVOLVE(convolve_pixels_bfloat16, convolve_pixels, bfloat16)

extern "C" int64_t images_in_a_block() { return LANES; }
