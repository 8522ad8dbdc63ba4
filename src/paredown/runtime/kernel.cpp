// Sparse convolution on images in blocks of 16. Maps are stored as [blocks][channels][height][width][16 images], so
// that one weight multiplies one vector of 16 images, whatever its tap, the stride and the border.
//
// A block is computed in parts of one register each (two of AVX2, one of AVX-512): GCC keeps wider vectors in memory.
//
// Filters with the same sparsity pattern form a group and share loads: `F` filters and `P` output positions are
// accumulated in registers at once. Positions at the border skip the taps outside the image instead of padding it.
// Zero weights are never multiplied.

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

constexpr int LANES = 16;
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

template <typename T> struct Vector {
    static constexpr int lanes = BYTES / sizeof(T);  // a part of the block's images
    typedef T type __attribute__((vector_size(BYTES), aligned(sizeof(T))));
};

template <typename T> struct Layer {
    const T *input, *residual, *weights, *bias;
    T *output;
    T low, high;  // of the fused activation: the result is clamped to [low, high]
    int64_t in_step, out_step, unit;  // values between two channels, and between two pixels
};

struct Position { int64_t block, input, output; };  // offsets of a part within a channel's map

template <typename T, int F, int P>
void tile(const Layer<T> &layer, const T *const *in, T *const *out, const T *const *extra, const int32_t *filters,
          const int64_t *offsets, const int32_t *places, int64_t entries, const T *weights, int64_t pitch) {
    using V = typename Vector<T>::type;
    V sums[F][P];
#pragma GCC unroll 16
    for (int f = 0; f < F; f++)
#pragma GCC unroll 16
        for (int p = 0; p < P; p++) sums[f][p] = V{} + layer.bias[filters[f]];
    for (int64_t k = 0; k < entries; k++) {
        const T *w = weights + places[k] * pitch;
        V x[P];
#pragma GCC unroll 16
        for (int p = 0; p < P; p++) x[p] = *(const V *)(in[p] + offsets[k]);
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
            if (layer.residual) y += *(const V *)(extra[p] + at);
            y = y < layer.low ? V{} + layer.low : y;
            y = y > layer.high ? V{} + layer.high : y;
            *(V *)(out[p] + at) = y;
        }
}

template <typename T>
using Tile = void (*)(const Layer<T> &, const T *const *, T *const *, const T *const *, const int32_t *, const int64_t *,
                      const int32_t *, int64_t, const T *, int64_t);

// The positions whose sums, together with a vector of each and a weight, fit into the registers.
constexpr int widest(int filters) {
    if (REGISTERS < 32) return filters == 1 ? 8 : filters == 2 ? 5 : 3;
    return filters == 1 ? 12 : filters == 2 ? 8 : filters == 4 ? 6 : 3;
}
constexpr int MOST = REGISTERS < 32 ? 4 : 8;  // filters at once

template <typename T, int F, int P> Tile<T> pick(int positions) {
    if constexpr (P == 1) return tile<T, F, 1>;
    else return positions == P ? tile<T, F, P> : pick<T, F, P - 1>(positions);
}

template <typename T> Tile<T> choose(int filters, int positions) {
    switch (filters) {
        case 1: return pick<T, 1, widest(1)>(positions);
        case 2: return pick<T, 2, widest(2)>(positions);
        case 4: return pick<T, 4, widest(4)>(positions);
        default: return pick<T, MOST, widest(MOST)>(positions);
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

// Convolve the positions of `edges`. `chunks` (n, 4): filters, first entry, entries, first weight; `entries` (m, 2):
// channel, tap; `order`: filter indices in the order of the chunks.
template <typename T>
void slab(const Layer<T> &layer, const Shape &s, const std::vector<Edge> &edges, const int32_t *chunks, int64_t n,
          const int32_t *entries, const int32_t *order) {
    std::vector<int64_t> offsets;
    std::vector<int32_t> places;
    const int32_t *filters = order;
    for (int64_t c = 0; c < n; filters += chunks[4 * c], c++) {
        const int F = chunks[4 * c], first = chunks[4 * c + 1], count = chunks[4 * c + 2], at = chunks[4 * c + 3];
        offsets.resize(count);
        places.resize(count);
        for (const Edge &edge : edges) {
            int64_t seen = 0;
            for (int32_t k = 0; k < count; k++) {
                int64_t channel = entries[2 * (first + k)], tap = entries[2 * (first + k) + 1];
                int64_t dy = tap / s.kernel_w, dx = tap % s.kernel_w;
                offsets[seen] = channel * layer.in_step + (dy * s.dilation_h * s.width + dx * s.dilation_w) * layer.unit;
                places[seen] = k;
                seen += dy >= edge.top && dy < edge.bottom && dx >= edge.left && dx < edge.right;
            }
            const int G = std::min(F, MOST);
            const int64_t all = edge.positions.size(), most = widest(G);
            for (int64_t left = all, done = 0; left > 0;) {
                const int P = left >= 2 * most || left <= most ? std::min(left, most) : (left + 1) / 2;
                const T *in[12], *extra[12] = {};
                T *out[12];
                for (int p = 0; p < P; p++) {
                    const Position &where = edge.positions[done + p];
                    int64_t to = where.block * s.filters * layer.out_step + where.output;
                    in[p] = layer.input + where.block * s.channels * layer.in_step + where.input;
                    out[p] = layer.output + to;
                    if (layer.residual) extra[p] = layer.residual + to;
                }
                for (int f = 0; f < F; f += G)
                    choose<T>(G, P)(layer, in, out, extra, filters + f, offsets.data(), places.data(), seen,
                                    layer.weights + at + f, F);
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
template <typename T> void portions(const Shape &s, int64_t threads, int64_t &rows, int64_t &blocks) {
    const int64_t room = 1 << 20, row = std::max<int64_t>(1, s.channels * s.width * LANES * (int64_t)sizeof(T));
    const int64_t halo = (s.kernel_h - 1) * s.dilation_h;
    rows = std::clamp<int64_t>((room / row - halo) / s.stride_h, 1, s.out_height);
    blocks = rows < s.out_height ? 1 : std::clamp<int64_t>(room / (row * std::max<int64_t>(1, s.height)), 1, s.blocks);
    while (blocks > 1 && (s.blocks + blocks - 1) / blocks < threads) blocks--;
    while (rows > 1 && (s.blocks + blocks - 1) / blocks * ((s.out_height + rows - 1) / rows) < threads) rows--;
}

template <typename T>
void convolve(const T *input, const T *weights, const T *bias, const T *residual, T *output, const int32_t *chunks,
              int64_t n, const int32_t *entries, const int32_t *order, const int64_t *shape, double low, double high,
              int64_t threads) {
    Shape s;
    std::copy(shape, shape + sizeof(Shape) / sizeof(int64_t), (int64_t *)&s);
    const int64_t in_step = s.height * s.width * LANES, out_step = s.out_height * s.out_width * LANES;
    const Layer<T> layer{input, residual, weights, bias, output, (T)low, (T)high, in_step, out_step, LANES};
    if (s.blocks < 1 || s.filters < 1 || s.out_height < 1 || s.out_width < 1) return;  // there is nothing to do
    const bool small = s.out_height * s.out_width <= SMALL;
    int64_t rows, blocks;
    portions<T>(s, small ? 1 : threads, rows, blocks);
    const int64_t down = (s.out_height + rows - 1) / rows, along = (s.blocks + blocks - 1) / blocks;
    const int64_t parts = small && threads > 1 ? std::clamp<int64_t>(4 * threads / (down * along), 1, n) : 1;
    const auto filters = starts_of(chunks, n, order);
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
    for (int64_t i = 0; i < down * along * parts; i++) {
        const int64_t row = i / parts % down * rows, block = i / parts / down * blocks, part = i % parts;
        const int64_t first = n * part / parts, last = n * (part + 1) / parts;
        const auto edges =
            edges_of(s, row, std::min(rows, s.out_height - row), block, std::min(blocks, s.blocks - block),
                     Vector<T>::lanes);
        slab(layer, s, edges, chunks + 4 * first, last - first, entries, filters[first]);
    }
}

// The same for few images: maps [images][channels][height][width] with their borders in them, so that every tap is
// inside and a vector holds neighbouring pixels, running from one row into the next. `out_width` is what the input's
// `width` leaves of a row of outputs; rows of `output` are as wide as the input's, their ends are not meaningful, and a
// channel is `stride_h` values long. Threads share the filters: small maps have no other work to share.
template <typename T>
void convolve_pixels(const T *input, const T *weights, const T *bias, const T *residual, T *output,
                     const int32_t *chunks, int64_t n, const int32_t *entries, const int32_t *order,
                     const int64_t *shape, double low, double high, int64_t threads) {
    Shape s;
    std::copy(shape, shape + sizeof(Shape) / sizeof(int64_t), (int64_t *)&s);
    if (s.blocks < 1 || s.filters < 1 || s.out_height < 1 || s.out_width < 1) return;
    const Layer<T> layer{input, residual, weights, bias, output, (T)low, (T)high, s.height * s.width, s.stride_h, 1};
    std::vector<Edge> edges{{0, s.kernel_h, 0, s.kernel_w, {}}};
    for (int64_t image = 0; image < s.blocks; image++)
        for (int64_t at = 0; at < (s.out_height - 1) * s.width + s.out_width; at += Vector<T>::lanes)
            edges[0].positions.push_back({image, at, at});
    const auto filters = starts_of(chunks, n, order);
    const int64_t piece = std::max<int64_t>(1, n / (4 * threads));
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
    for (int64_t c = 0; c < n; c += piece)
        slab(layer, s, edges, chunks + 4 * c, std::min(piece, n - c), entries, filters[c]);
}

}  // namespace

#define CONVOLVE(NAME, FUNCTION, T)                                                                                   \
    extern "C" void NAME(const T *input, const T *weights, const T *bias, const T *residual, T *output,               \
                         const int32_t *chunks, int64_t n, const int32_t *entries, const int32_t *order,              \
                         const int64_t *shape, double low, double high, int64_t threads) {                            \
        FUNCTION<T>(input, weights, bias, residual, output, chunks, n, entries, order, shape, low, high, threads);    \
    }
CONVOLVE(convolve_float, convolve, float)
CONVOLVE(convolve_double, convolve, double)
CONVOLVE(convolve_pixels_float, convolve_pixels, float)
CONVOLVE(convolve_pixels_double, convolve_pixels, double)
