// Sparse convolution on images in blocks of 16: a map lies as [blocks of images][channels][height][width][16 images],
// so that one weight meets one vector of 16 images, whatever its place in the kernel, the stride and the border.
//
// Filters that have their weights at the same places form a group and share what they load: `F` filters and `P` output
// positions are accumulated in registers at once. Positions at the border skip the taps that fall outside; there is no
// padding. Nothing is multiplied by a zero.

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

constexpr int LANES = 16;

template <typename T> struct Vector {
    typedef T type __attribute__((vector_size(LANES * sizeof(T)), aligned(sizeof(T))));
};

template <typename T> struct Layer {
    const T *input, *residual, *weights, *bias;
    T *output;
    T low, high;  // the activation: the sum is clamped to [low, high]
    int64_t out_channels, in_area, out_area;
};

struct Position { int64_t block, input, output; };  // offsets within a channel's map

template <typename T, int F, int P>
void tile(const Layer<T> &layer, const T *const *in, T *const *out, const T *const *extra, const int32_t *filters,
          const int64_t *offsets, const int32_t *places, int64_t entries, const T *weights) {
    using V = typename Vector<T>::type;
    V sums[F][P];
#pragma GCC unroll 16
    for (int f = 0; f < F; f++)
#pragma GCC unroll 16
        for (int p = 0; p < P; p++) sums[f][p] = V{} + layer.bias[filters[f]];
    for (int64_t k = 0; k < entries; k++) {
        const T *w = weights + (int64_t)places[k] * F;
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
            int64_t at = filters[f] * layer.out_area * LANES;
            V y = sums[f][p];
            if (layer.residual) y += *(const V *)(extra[p] + at);
            y = y < layer.low ? V{} + layer.low : y;
            y = y > layer.high ? V{} + layer.high : y;
            *(V *)(out[p] + at) = y;
        }
}

template <typename T>
using Tile = void (*)(const Layer<T> &, const T *const *, T *const *, const T *const *, const int32_t *, const int64_t *,
                      const int32_t *, int64_t, const T *);

constexpr int widest(int filters) { return filters == 1 ? 12 : filters == 2 ? 8 : filters == 4 ? 6 : 3; }

template <typename T, int F, int P> Tile<T> pick(int positions) {
    if constexpr (P == 1) return tile<T, F, 1>;
    else return positions == P ? tile<T, F, P> : pick<T, F, P - 1>(positions);
}

template <typename T> Tile<T> choose(int filters, int positions) {
    switch (filters) {
        case 1: return pick<T, 1, widest(1)>(positions);
        case 2: return pick<T, 2, widest(2)>(positions);
        case 4: return pick<T, 4, widest(4)>(positions);
        default: return pick<T, 8, widest(8)>(positions);
    }
}

struct Shape {
    int64_t blocks, channels, height, width, filters, out_height, out_width;
    int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
};

// The taps [first, last) that lie inside for output coordinate `at`.
inline void inside(int64_t at, int64_t stride, int64_t pad, int64_t dilation, int64_t kernel, int64_t size,
                   int64_t &first, int64_t &last) {
    int64_t start = at * stride - pad;
    first = start >= 0 ? 0 : (-start + dilation - 1) / dilation;
    last = start >= size ? 0 : std::min(kernel, (size - 1 - start) / dilation + 1);
    if (last < first) last = first;
}

struct Edge {  // positions that see the same taps
    int64_t top, bottom, left, right;
    std::vector<Position> positions;
};

std::vector<Edge> edges_of(const Shape &s, int64_t row, int64_t rows, int64_t block, int64_t blocks) {
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
                found->positions.push_back({b, in * LANES, (y * s.out_width + x) * LANES});
            }
    return edges;
}

// `chunks` (n, 4): filters, first entry, entries, first weight; `entries` (m, 2): channel, tap; `order`: the filters.
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
                offsets[seen] = (channel * layer.in_area + dy * s.dilation_h * s.width + dx * s.dilation_w) * LANES;
                places[seen] = k;
                seen += dy >= edge.top && dy < edge.bottom && dx >= edge.left && dx < edge.right;
            }
            const int64_t all = edge.positions.size(), most = widest(F);
            for (int64_t left = all, done = 0; left > 0;) {
                const int P = left >= 2 * most || left <= most ? std::min(left, most) : (left + 1) / 2;
                const T *in[12], *extra[12] = {};
                T *out[12];
                for (int p = 0; p < P; p++) {
                    const Position &where = edge.positions[done + p];
                    int64_t to = where.block * s.filters * layer.out_area * LANES + where.output;
                    in[p] = layer.input + where.block * s.channels * layer.in_area * LANES + where.input;
                    out[p] = layer.output + to;
                    if (layer.residual) extra[p] = layer.residual + to;
                }
                choose<T>(F, P)(layer, in, out, extra, filters, offsets.data(), places.data(), seen, layer.weights + at);
                done += P;
                left -= P;
            }
        }
    }
}

// How many output rows, and how many blocks of images, are worked on at once: what they read should stay in the cache.
template <typename T> void portions(const Shape &s, int64_t threads, int64_t &rows, int64_t &blocks) {
    const int64_t room = 1 << 20, row = s.channels * s.width * LANES * (int64_t)sizeof(T);
    const int64_t halo = (s.kernel_h - 1) * s.dilation_h;
    rows = std::clamp<int64_t>((room / row - halo) / s.stride_h, 1, s.out_height);
    blocks = rows < s.out_height ? 1 : std::clamp<int64_t>(room / (row * s.height), 1, s.blocks);
    while (blocks > 1 && (s.blocks + blocks - 1) / blocks < threads) blocks--;
    while (rows > 1 && (s.blocks + blocks - 1) / blocks * ((s.out_height + rows - 1) / rows) < threads) rows--;
}

template <typename T>
void convolve(const T *input, const T *weights, const T *bias, const T *residual, T *output, const int32_t *chunks,
              int64_t n, const int32_t *entries, const int32_t *order, const int64_t *shape, double low, double high,
              int64_t threads) {
    Shape s;
    std::copy(shape, shape + sizeof(Shape) / sizeof(int64_t), (int64_t *)&s);
    const Layer<T> layer{input,         residual,  weights,   bias, output, (T)low, (T)high, s.filters, s.height * s.width,
                         s.out_height * s.out_width};
    int64_t rows, blocks;
    portions<T>(s, threads, rows, blocks);
    const int64_t down = (s.out_height + rows - 1) / rows, along = (s.blocks + blocks - 1) / blocks;
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
    for (int64_t i = 0; i < down * along; i++) {
        const int64_t row = i % down * rows, block = i / down * blocks;
        const auto edges =
            edges_of(s, row, std::min(rows, s.out_height - row), block, std::min(blocks, s.blocks - block));
        slab(layer, s, edges, chunks, n, entries, order);
    }
}

}  // namespace

#define CONVOLVE(NAME, T)                                                                                             \
    extern "C" void NAME(const T *input, const T *weights, const T *bias, const T *residual, T *output,               \
                         const int32_t *chunks, int64_t n, const int32_t *entries, const int32_t *order,              \
                         const int64_t *shape, double low, double high, int64_t threads) {                            \
        convolve<T>(input, weights, bias, residual, output, chunks, n, entries, order, shape, low, high, threads);    \
    }
CONVOLVE(convolve_float, float)
CONVOLVE(convolve_double, double)
