// 3x3 convolutions by Winograd's F(4x4, 3x3) (Lavin & Gray 2016, arXiv:1509.09308, section 4.1), with what stands before
// and after them in a U-Net: group normalisation and SiLU of the input, bias, time table and residual at the output.
//
// A picture is cut into tiles of 4 x 4 results. A tile needs 6 x 6 inputs d; with the 6 x 6 transform u of a 3 x 3 filter,
//
//     y = A^T [ sum over channels (B^T d B) * u ] A,     u = G w G^T,     * by element:
//
// 36 products in place of 144 for every pair of channels. For each of the 36 frequencies the sum over channels is a matrix
// product, tiles x inputs times inputs x outputs, and nearly all of the time is spent there.
//
// All pictures are (B, H, W, C) in memory, PyTorch's channels-last; all numbers are float32, but for the pictures of a
// normalisation on its own, which may be bfloat16. Channels are multiples of LANES.
// A result does not depend on the number of threads, nor on the other pictures of the batch. No state, no exceptions.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <type_traits>

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16, ROWS = 12;  // floats of a register; rows of tiles whose sums stay in registers
#else
constexpr int LANES = 8, ROWS = 6;
#endif
constexpr int WIDE = 2;                  // registers of output channels in a panel
constexpr int PANEL = WIDE * LANES;      // output channels that are worked on at once
constexpr int FREQUENCIES = 36, SIDE = 4, WINDOW = 6;
constexpr int64_t NEAR = 512 << 10;      // bytes of transformed tiles that a core keeps in its own cache
constexpr int64_t SHARED = 8 << 20;      // ... that the cores keep in the cache that they share

using vec = float __attribute__((vector_size(LANES * 4), aligned(4)));
using ints = int32_t __attribute__((vector_size(LANES * 4), aligned(4)));

inline vec load(const float* p) { return *reinterpret_cast<const vec*>(p); }
inline void store(float* p, vec v) { *reinterpret_cast<vec*>(p) = v; }
inline vec all(float a) { return a - vec{}; }

// bfloat16 is the upper half of float32; numbers are rounded to the nearest, halves to even, and NaN stays NaN.
using bfloat16 = uint16_t;
using halves = uint16_t __attribute__((vector_size(LANES * 2), aligned(2)));
using words = uint32_t __attribute__((vector_size(LANES * 4), aligned(4)));

inline vec load(const bfloat16* p) {
    return reinterpret_cast<vec>(__builtin_convertvector(*reinterpret_cast<const halves*>(p), words) << 16);
}
inline void store(bfloat16* p, vec v) {
    words bits = reinterpret_cast<words>(v), rounded = bits + 0x7fff + ((bits >> 16) & 1);
    rounded = v == v ? rounded : bits | 0x400000;
    *reinterpret_cast<halves*>(p) = __builtin_convertvector(rounded >> 16, halves);
}

// e^x to two units in the last place (Cody & Waite's reduction, the polynomial of Cephes' expf).
inline vec exponential(vec x) {
    x = x < all(-87.f) ? all(-87.f) : x;
    x = x > all(87.f) ? all(87.f) : x;
    vec scaled = x * 1.44269504088896341f;
    ints n = __builtin_convertvector(scaled + (scaled < all(0.f) ? all(-0.5f) : all(0.5f)), ints);
    vec whole = __builtin_convertvector(n, vec);
    x = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    vec y = all(1.9875691500e-4f);
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) y = y * x + c;
    y = y * x * x + x + 1.f;
    ints power = (n + 127) << 23;
    return y * reinterpret_cast<vec>(power);
}

inline vec sigmoid(vec x) { return 1.f / (1.f + exponential(-x)); }

// Memory that is not set to zero, at the beginning of a cache line.
struct Free {
    void operator()(float* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<float, Free>;
Buffer buffer(int64_t floats) { return Buffer(static_cast<float*>(std::aligned_alloc(64, (floats * 4 + 63) / 64 * 64))); }

// ---------------------------------------------------------------------------------------------------------------------
// The transforms, in one dimension; `s` is the distance between neighbours in the result.
//
// They interpolate at 0, infinity and +-1/sqrt(2), +-sqrt(2), where the error was measured to be a fifth of that at the usual
// +-1, +-2: 1.6e-6 of the largest result in place of 8e-6.
// ---------------------------------------------------------------------------------------------------------------------

constexpr float NARROW = 0.70710678118654752f, WIDER = 1.41421356237309505f;

#define TRANSFORM inline __attribute__((always_inline)) void

// B^T d: 6 -> 6
TRANSFORM of_input(vec d0, vec d1, vec d2, vec d3, vec d4, vec d5, vec* o, int s) {
    vec a = d4 - 2.f * d2, b = NARROW * (d3 - 2.f * d1), c = d4 - 0.5f * d2, e = WIDER * (d3 - 0.5f * d1);
    o[0] = d0 - 2.5f * d2 + d4;
    o[s] = a + b;
    o[2 * s] = a - b;
    o[3 * s] = c + e;
    o[4 * s] = c - e;
    o[5 * s] = d1 - 2.5f * d3 + d5;
}

// A^T m: 6 -> 4
TRANSFORM of_output(vec m0, vec m1, vec m2, vec m3, vec m4, vec m5, vec* o, int s) {
    vec p = m1 + m2, q = NARROW * (m1 - m2), r = m3 + m4, t = WIDER * (m3 - m4);
    o[0] = m0 + p + r;
    o[s] = q + t;
    o[2 * s] = 0.5f * p + 2.f * r;
    o[3 * s] = 0.5f * q + 2.f * t + m5;
}

// A y: 4 -> 6, the adjoint of the one before
TRANSFORM of_gradient(vec y0, vec y1, vec y2, vec y3, vec* o, int s) {
    vec a = y0 + 0.5f * y2, b = NARROW * (y1 + 0.5f * y3), c = y0 + 2.f * y2, d = WIDER * (y1 + 2.f * y3);
    o[0] = y0;
    o[s] = a + b;
    o[2 * s] = a - b;
    o[3 * s] = c + d;
    o[4 * s] = c - d;
    o[5 * s] = y3;
}

// G w: 3 -> 6
TRANSFORM of_filter(vec w0, vec w1, vec w2, vec* o, int s) {
    vec a = (w0 + 0.5f * w2) * (-2.f / 3), b = w1 * (-2.f / 3 * NARROW), c = (w0 + 2.f * w2) * (1.f / 6), d = w1 * (WIDER / 6);
    o[0] = w0;
    o[s] = a + b;
    o[2 * s] = a - b;
    o[3 * s] = c + d;
    o[4 * s] = c - d;
    o[5 * s] = w2;
}

// G^T u: 6 -> 3, the adjoint of the one before
TRANSFORM of_filter_gradient(vec u0, vec u1, vec u2, vec u3, vec u4, vec u5, vec* o, int s) {
    vec p = u1 + u2, r = u3 + u4;
    o[0] = u0 - p * (2.f / 3) + r * (1.f / 6);
    o[s] = (u1 - u2) * (-2.f / 3 * NARROW) + (u3 - u4) * (WIDER / 6);
    o[2 * s] = (r - p) * (1.f / 3) + u5;
}

// A square of registers, its rows become its columns: 1, 2, 4 ... are exchanged between rows that are as far apart.
template <int HALF = 1>
inline void transpose(vec* rows) {
    ints low, high;
    for (int i = 0; i < LANES; i++) {
        low[i] = i & HALF ? i - HALF + LANES : i;
        high[i] = i & HALF ? i + LANES : i + HALF;
    }
    for (int i = 0; i < LANES; i++) {
        if (i & HALF) continue;
        vec a = rows[i], b = rows[i + HALF];
        rows[i] = __builtin_shuffle(a, b, low);
        rows[i + HALF] = __builtin_shuffle(a, b, high);
    }
    if constexpr (2 * HALF < LANES) transpose<2 * HALF>(rows);
}

// ---------------------------------------------------------------------------------------------------------------------
// From pictures to transformed tiles, and back
// ---------------------------------------------------------------------------------------------------------------------

// Pictures (B, H, W, C) as the convolution sees them: normalised (scale x + shift, tables (B, C)), through SiLU, enlarged.
struct Pictures {
    const float* x;
    int64_t B, H, W, C;  // H and W after the enlargement
    int64_t up;          // 1, or 2 for nearest-neighbour doubling
    const float *scale, *shift;
    bool silu;

    int64_t down() const { return (H + SIDE - 1) / SIDE; }   // tiles of a column
    int64_t across() const { return (W + SIDE - 1) / SIDE; }  // tiles of a row
    int64_t tiles() const { return B * down() * across(); }
    int64_t row() const { return (SIDE * across() + 2) * C; }  // floats of a row with its margins
};

// A row of a picture with its margins of zeros; a row outside of the picture is zeros.
void fill_row(const Pictures& in, int64_t n, int64_t y, float* out) {
    const int64_t C = in.C;
    if (y < 0 || y >= in.H) {
        std::memset(out, 0, in.row() * 4);
        return;
    }
    std::memset(out, 0, C * 4);
    std::memset(out + (in.W + 1) * C, 0, (in.row() - (in.W + 1) * C) * 4);
    out += C;
    const int64_t w = in.W / in.up;
    const float* x = in.x + (n * (in.H / in.up) + y / in.up) * w * C;
    const float *scale = in.scale ? in.scale + n * C : nullptr, *shift = in.scale ? in.shift + n * C : nullptr;
    for (int64_t i = 0; i < w; i++, x += C) {
        float* first = out;
        if (!scale) {
            std::memcpy(out, x, C * 4);
        } else if (in.silu) {
            for (int64_t c = 0; c < C; c += LANES) {
                vec z = load(x + c) * load(scale + c) + load(shift + c);
                store(out + c, z * sigmoid(z));
            }
        } else {
            for (int64_t c = 0; c < C; c += LANES) store(out + c, load(x + c) * load(scale + c) + load(shift + c));
        }
        out += C;
        if (in.up == 2) {
            std::memcpy(out, first, C * 4);
            out += C;
        }
    }
}

// The six rows of a line of tiles, of which the next line needs two again.
struct Strip {
    Buffer rows;
    int64_t picture = -1, line = -1;

    explicit Strip(const Pictures& in) : rows(buffer(WINDOW * in.row())) {}

    const float* at(const Pictures& in, int64_t n, int64_t ty) {
        int64_t first = 0, row = in.row();
        if (n == picture && ty == line) return rows.get();
        if (n == picture && ty == line + 1) {
            std::memmove(rows.get(), rows.get() + SIDE * row, 2 * row * 4);
            first = 2;
        }
        for (int64_t i = first; i < WINDOW; i++) fill_row(in, n, ty * SIDE - 1 + i, rows.get() + i * row);
        picture = n, line = ty;
        return rows.get();
    }
};

// Tiles t0 ... t1 to V[frequency][tile][channel], a table of `rows` rows of `width` floats a frequency.
void load_tiles(const Pictures& in, Strip& strip, int64_t t0, int64_t t1, float* V, int64_t rows, int64_t width) {
    const int64_t across = in.across(), line = in.row();
    for (int64_t t = t0; t < t1; t++, V += width) {
        const int64_t n = t / across / in.down(), ty = t / across % in.down();
        const float* d = strip.at(in, n, ty) + t % across * SIDE * in.C;
        for (int64_t c = 0; c < in.C; c += LANES, d += LANES) {
            vec a[36], b[36];
            for (int j = 0; j < 6; j++) {
                const float* p = d + j * in.C;
                of_input(load(p), load(p + line), load(p + 2 * line), load(p + 3 * line), load(p + 4 * line), load(p + 5 * line), a + j, 6);
            }
            for (int i = 0; i < 6; i++) {
                vec* r = a + 6 * i;
                of_input(r[0], r[1], r[2], r[3], r[4], r[5], b + 6 * i, 1);
            }
            for (int f = 0; f < 36; f++) store(V + f * rows * width + c, b[f]);
        }
    }
}

// Tiles t0 ... t1 of gradients (B, H, W, C) to V alike, by the adjoint of the transform of results.
void load_gradients(const Pictures& in, int64_t t0, int64_t t1, float* V, int64_t rows, int64_t width) {
    const int64_t across = in.across(), C = in.C;
    for (int64_t t = t0; t < t1; t++, V += width) {
        const int64_t n = t / across / in.down(), y = t / across % in.down() * SIDE, x = t % across * SIDE;
        for (int64_t c = 0; c < C; c += LANES) {
            vec a[24], b[36], g[4][4];
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++)
                    g[i][j] = y + i < in.H && x + j < in.W ? load(in.x + ((n * in.H + y + i) * in.W + x + j) * C + c) : vec{};
            for (int j = 0; j < 4; j++) of_gradient(g[0][j], g[1][j], g[2][j], g[3][j], a + j, 4);
            for (int i = 0; i < 6; i++) of_gradient(a[4 * i], a[4 * i + 1], a[4 * i + 2], a[4 * i + 3], b + 6 * i, 1);
            for (int f = 0; f < 36; f++) store(V + f * rows * width + c, b[f]);
        }
    }
}

// Where results go: (B, H, W, K), with all that is added to them.
struct Results {
    float* y;
    int64_t H, W, K;
    const float* bias;      // (K), or none
    const float* table;     // (B, K) with `stride` floats from picture to picture, or none
    int64_t stride;
    const float* residual;  // like y, or none
    bool fold;              // sum squares of 2 x 2: the adjoint of doubling
};

// Panel k0 of tiles t0 ... t1 from M[frequency][tile][panel], `rows` rows of PANEL floats a frequency.
template <int NV>
void store_tiles(const Results& out, int64_t t0, int64_t t1, const float* M, int64_t rows, int64_t k0) {
    const int64_t across = (out.W + SIDE - 1) / SIDE, down = (out.H + SIDE - 1) / SIDE, K = out.K;
    for (int64_t t = t0; t < t1; t++, M += PANEL) {
        const int64_t n = t / across / down, y = t / across % down * SIDE, x = t % across * SIDE;
        for (int v = 0; v < NV; v++) {
            const int64_t k = k0 + v * LANES;
            const float* m = M + v * LANES;
            vec a[24], b[16];
            for (int j = 0; j < 6; j++) {
                auto at = [&](int i) { return load(m + (6 * i + j) * rows * PANEL); };
                of_output(at(0), at(1), at(2), at(3), at(4), at(5), a + j, 6);
            }
            for (int i = 0; i < 4; i++) {
                vec* r = a + 6 * i;
                of_output(r[0], r[1], r[2], r[3], r[4], r[5], b + 4 * i, 1);
            }
            if (out.fold) {
                for (int i = 0; i < 4; i += 2)
                    for (int j = 0; j < 4; j += 2)
                        if (y + i < out.H && x + j < out.W)
                            store(out.y + ((n * out.H + y + i) / 2 * (out.W / 2) + (x + j) / 2) * K + k,
                                  b[4 * i + j] + b[4 * i + j + 1] + b[4 * i + 4 + j] + b[4 * i + 5 + j]);
                continue;
            }
            vec added = out.bias ? load(out.bias + k) : vec{};
            if (out.table) added += load(out.table + n * out.stride + k);
            for (int i = 0; i < 4 && y + i < out.H; i++)
                for (int j = 0; j < 4 && x + j < out.W; j++) {
                    const int64_t at = ((n * out.H + y + i) * out.W + x + j) * K + k;
                    vec r = b[4 * i + j] + added;
                    store(out.y + at, out.residual ? r + load(out.residual + at) : r);
                }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Filters
// ---------------------------------------------------------------------------------------------------------------------

// Filters (K, 3, 3, C) in memory. Of the gradient with regard to the input, they are turned by 180 degrees and their inputs
// and outputs change places; `inputs` and `outputs` are those of the product.
struct Filters {
    const float* w;
    int64_t inputs, outputs;
    bool turned;
};

inline void transform_filter(const vec* w, vec* u) {
    vec t[18];
    for (int j = 0; j < 3; j++) of_filter(w[j], w[3 + j], w[6 + j], t + j, 3);
    for (int i = 0; i < 6; i++) of_filter(t[3 * i], t[3 * i + 1], t[3 * i + 2], u + 6 * i, 1);
}

// Panel k0 to U[frequency][input][PANEL].
template <int NV>
void load_panel(const Filters& filters, int64_t k0, float* U) {
    const int64_t I = filters.inputs, O = filters.outputs;
    vec w[9], u[LANES][36];
    for (int v = 0; v < NV; v++) {
        float* to = U + v * LANES;
        const int64_t k = k0 + v * LANES;
        if (filters.turned) {
            for (int64_t c = 0; c < I; c++) {
                for (int i = 0; i < 9; i++) w[i] = load(filters.w + (c * 9 + 8 - i) * O + k);
                transform_filter(w, u[0]);
                for (int f = 0; f < 36; f++) store(to + (f * I + c) * PANEL, u[0][f]);
            }
            continue;
        }
        for (int64_t c = 0; c < I; c += LANES) {
            for (int j = 0; j < LANES; j++) {
                for (int i = 0; i < 9; i++) w[i] = load(filters.w + ((k + j) * 9 + i) * I + c);
                transform_filter(w, u[j]);
            }
            for (int f = 0; f < 36; f++) {
                vec square[LANES];
                for (int j = 0; j < LANES; j++) square[j] = u[j][f];
                transpose(square);
                for (int j = 0; j < LANES; j++) store(to + (f * I + c + j) * PANEL, square[j]);
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Matrix products whose sums stay in registers
// ---------------------------------------------------------------------------------------------------------------------

// M (R, NV registers) = V (R, inputs) U (inputs, PANEL)
template <int R, int NV>
void product(const float* V, int64_t width, const float* U, int64_t inputs, float* M) {
    vec sum[R][NV] = {};
    const float* v[(R + 3) / 4];
    for (int i = 0; i < (R + 3) / 4; i++) v[i] = V + 4 * i * width;
    for (int64_t c = 0; c < inputs; c++, U += PANEL) {
        vec u[NV];
#pragma GCC unroll 4
        for (int j = 0; j < NV; j++) u[j] = load(U + j * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int j = 0; j < NV; j++) sum[r][j] += v[r / 4][r % 4 * width + c] * u[j];
    }
    for (int r = 0; r < R; r++)
        for (int j = 0; j < NV; j++) store(M + r * PANEL + j * LANES, sum[r][j]);
}

template <int NV, int R = ROWS>
void product_of(int64_t rows, const float* V, int64_t width, const float* U, int64_t inputs, float* M) {
    if (rows == R)
        product<R, NV>(V, width, U, inputs, M);
    else if constexpr (R > 1)
        product_of<NV, R - 1>(rows, V, width, U, inputs, M);
}

// Panel k0 of the results of tiles t0 ... t1, from V (rows `first` on, of `rows` a frequency) and U; M is room for them.
template <int NV>
void panel(const Results& out, int64_t t0, int64_t t1, const float* V, int64_t rows, int64_t width, const float* U, int64_t inputs,
           float* M, int64_t k0) {
    const int64_t count = t1 - t0;
    for (int f = 0; f < FREQUENCIES; f++)
        for (int64_t p = 0; p < count; p += ROWS)
            product_of<NV>(std::min<int64_t>(ROWS, count - p), V + (f * rows + p) * width, width, U + f * inputs * PANEL, inputs,
                           M + (f * count + p) * PANEL);
    store_tiles<NV>(out, t0, t1, M, count, k0);
}

void any_panel(const Results& out, int64_t t0, int64_t t1, const float* V, int64_t rows, int64_t width, const float* U, int64_t inputs,
               float* M, int64_t k0) {
    if (k0 + PANEL <= out.K)
        panel<WIDE>(out, t0, t1, V, rows, width, U, inputs, M, k0);
    else
        panel<1>(out, t0, t1, V, rows, width, U, inputs, M, k0);
}

void any_load_panel(const Filters& filters, int64_t k0, float* U) {
    if (k0 + PANEL <= filters.outputs)
        load_panel<WIDE>(filters, k0, U);
    else
        load_panel<1>(filters, k0, U);
}

// sum over p of D[p][R] V[p][NV registers], to S (R, PANEL)
template <int R, int NV>
void outer(const float* D, int64_t d_width, const float* V, int64_t v_width, int64_t count, float* S) {
    vec sum[R][NV] = {};
    for (int64_t p = 0; p < count; p++, D += d_width, V += v_width) {
        vec v[NV];
#pragma GCC unroll 4
        for (int j = 0; j < NV; j++) v[j] = load(V + j * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int j = 0; j < NV; j++) sum[r][j] += D[r] * v[j];
    }
    for (int r = 0; r < R; r++)
        for (int j = 0; j < NV; j++) store(S + r * PANEL + j * LANES, sum[r][j]);
}

// The gradient of filters k0 ... k0 + LANES and inputs c0 ... of a panel is increased by that of `count` tiles.
template <int NV>
void filter_gradient(const float* D, int64_t d_width, const float* V, int64_t v_width, int64_t rows, int64_t count, float* dw, int64_t C,
                     int64_t k0, int64_t c0) {
    constexpr int R = ROWS == 12 ? 8 : 4;
    float S[36 * LANES * PANEL] __attribute__((aligned(64)));
    for (int f = 0; f < 36; f++)
        for (int r = 0; r < LANES; r += R)
            outer<R, NV>(D + f * rows * d_width + k0 + r, d_width, V + f * rows * v_width + c0, v_width, count,
                         S + (f * LANES + r) * PANEL);
    for (int k = 0; k < LANES; k++)
        for (int v = 0; v < NV; v++) {
            vec t[18], g[9];
            for (int j = 0; j < 6; j++) {
                auto at = [&](int i) { return load(S + ((6 * i + j) * LANES + k) * PANEL + v * LANES); };
                of_filter_gradient(at(0), at(1), at(2), at(3), at(4), at(5), t + j, 6);
            }
            for (int i = 0; i < 3; i++) {
                vec* r = t + 6 * i;
                of_filter_gradient(r[0], r[1], r[2], r[3], r[4], r[5], g + 3 * i, 1);
            }
            for (int i = 0; i < 9; i++) {
                float* to = dw + ((k0 + k) * 9 + i) * C + c0 + v * LANES;
                store(to, load(to) + g[i]);
            }
        }
}

int64_t padded(int64_t channels) { return channels + 16; }  // so that rows do not fall onto the same lines of the cache

// ---------------------------------------------------------------------------------------------------------------------
// Group normalisation of pictures (B, P, C), float32 or bfloat16
// ---------------------------------------------------------------------------------------------------------------------

template <typename T>
void tables(const T* x, int64_t B, int64_t P, int64_t C, int64_t G, float eps, const float* weight, const float* bias, int64_t stride,
            float* mean, float* rstd, float* scale, float* shift, int64_t threads) {
#pragma omp parallel num_threads(threads)
    {
        const Buffer room = buffer(3 * C);
        float *s = room.get(), *q = s + C, *first = q + C;
        const std::unique_ptr<double[]> sums(new double[2 * C]);
#pragma omp for schedule(static)
        for (int64_t n = 0; n < B; n++) {
            const T* from = x + n * P * C;  // differences from the first position are small: nothing is lost by squares
            for (int64_t c = 0; c < C; c += LANES) store(first + c, load(from + c));
            std::fill(sums.get(), sums.get() + 2 * C, 0.0);
            for (int64_t begin = 0; begin < P; begin += 64) {  // sums of 64 in single precision, of these in double
                std::memset(s, 0, 2 * C * 4);
                for (int64_t p = begin; p < std::min(P, begin + 64); p++)
                    for (int64_t c = 0; c < C; c += LANES) {
                        vec v = load(from + p * C + c) - load(first + c);
                        store(s + c, load(s + c) + v);
                        store(q + c, load(q + c) + v * v);
                    }
                for (int64_t c = 0; c < 2 * C; c++) sums[c] += s[c];
            }
            for (int64_t g = 0, D = C / G; g < G; g++) {
                double sum = 0, square = 0;
                for (int64_t c = g * D; c < (g + 1) * D; c++) {
                    const double origin = first[c];
                    sum += sums[c] + P * origin;
                    square += sums[C + c] + origin * (2 * sums[c] + P * origin);
                }
                const double m = sum / (D * P), r = 1 / std::sqrt(std::max(0.0, square / (D * P) - m * m) + eps);
                mean[n * G + g] = m, rstd[n * G + g] = r;
                for (int64_t c = g * D; c < (g + 1) * D; c++) {
                    const float a = weight[n * stride + c] * static_cast<float>(r);
                    scale[n * C + c] = a;
                    shift[n * C + c] = bias[n * stride + c] - a * static_cast<float>(m);
                }
            }
        }
    }
}

template <typename T>
void apply(const T* x, int64_t B, int64_t P, int64_t C, const float* scale, const float* shift, int64_t silu, T* y, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < B * P; i++) {
        const float *a = scale + i / P * C, *b = shift + i / P * C;
        for (int64_t c = 0; c < C; c += LANES) {
            vec z = load(x + i * C + c) * load(a + c) + load(b + c);
            store(y + i * C + c, silu ? z * sigmoid(z) : z);
        }
    }
}

// The gradient at scale x + shift is needed twice: it is kept in dx, or for a picture at a time where that is bfloat16.
template <typename T>
void gradient(const T* x, int64_t B, int64_t P, int64_t C, int64_t G, const float* weight, int64_t stride, const float* mean,
              const float* rstd, const float* scale, const float* shift, int64_t silu, const T* g, T* dx, float* dweight, float* dbias,
              int64_t threads) {
    constexpr bool apart = !std::is_same_v<T, float>;
#pragma omp parallel num_threads(threads)
    {
        const Buffer room = buffer((4 + (apart ? P : 0)) * C);
        float *s = room.get(), *q = s + C, *a = q + C, *b = a + C;
#pragma omp for schedule(static)
        for (int64_t n = 0; n < B; n++) {
            const float *scales = scale + n * C, *shifts = shift + n * C;
            float* kept = apart ? b + C : reinterpret_cast<float*>(dx + n * P * C);
            std::memset(s, 0, 2 * C * 4);
            for (int64_t p = 0; p < P; p++)
                for (int64_t c = 0, at = (n * P + p) * C; c < C; c += LANES) {
                    vec v = load(x + at + c), d = load(g + at + c);
                    if (silu) {
                        vec z = v * load(scales + c) + load(shifts + c), sigma = sigmoid(z);
                        d *= sigma * (1.f + z * (1.f - sigma));
                    }
                    store(kept + p * C + c, d);
                    store(s + c, load(s + c) + d);
                    store(q + c, load(q + c) + d * v);
                }
            for (int64_t group = 0, D = C / G; group < G; group++) {
                const float m = mean[n * G + group], r = rstd[n * G + group];
                double average = 0, projection = 0;
                for (int64_t c = group * D; c < (group + 1) * D; c++) {
                    const float w = weight[n * stride + c], h = (q[c] - m * s[c]) * r;
                    dweight[n * C + c] = h, dbias[n * C + c] = s[c];
                    average += w * s[c], projection += w * h;
                }
                average /= D * P, projection /= D * P;
                const float slope = -r * r * projection;
                for (int64_t c = group * D; c < (group + 1) * D; c++) a[c] = slope, b[c] = -r * average - slope * m;
            }
            for (int64_t p = 0; p < P; p++)
                for (int64_t c = 0, at = (n * P + p) * C; c < C; c += LANES)
                    store(dx + at + c, load(kept + p * C + c) * load(scales + c) + load(x + at + c) * load(a + c) + load(b + c));
        }
    }
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// What Python calls
// ---------------------------------------------------------------------------------------------------------------------

extern "C" {

int64_t lanes() { return LANES; }

// y (B, H, W, K) = conv3x3(enlarged(silu(scale x + shift))) + bias + table + residual, or with `turned` the gradient with
// regard to the input of a convolution with these filters (inputs, 3, 3, K); `fold` sums its squares of 2 x 2.
void convolution(const float* x, int64_t B, int64_t H, int64_t W, int64_t C, int64_t up, const float* scale, const float* shift,
                 int64_t silu, const float* w, int64_t K, int64_t turned, const float* bias, const float* table, int64_t stride,
                 const float* residual, int64_t fold, float* y, int64_t threads) {
    const Pictures in{x, B, H, W, C, up, scale, shift, silu != 0};
    const Filters filters{w, C, K, turned != 0};
    const Results out{y, H, W, K, bias, table, stride, residual, fold != 0};
    const int64_t tiles = in.tiles(), width = padded(C), panels = (K + PANEL - 1) / PANEL, of_panel = FREQUENCIES * C * PANEL;
    int64_t chunk = std::max<int64_t>(1, NEAR / (FREQUENCIES * (width + PANEL) * 4) / ROWS) * ROWS;

    if (tiles >= 4 * K && tiles >= chunk * threads) {
        // Many tiles: each thread takes some through all panels; they stay in its own cache.
        const Buffer U = buffer(panels * of_panel);
#pragma omp parallel num_threads(threads)
        {
#pragma omp for schedule(static)
            for (int64_t k = 0; k < panels; k++) any_load_panel(filters, k * PANEL, U.get() + k * of_panel);
            Strip strip(in);
            const Buffer V = buffer(FREQUENCIES * chunk * width), M = buffer(FREQUENCIES * chunk * PANEL);
#pragma omp for schedule(static)
            for (int64_t i = 0; i < (tiles + chunk - 1) / chunk; i++) {
                const int64_t t0 = i * chunk, t1 = std::min(tiles, t0 + chunk);
                load_tiles(in, strip, t0, t1, V.get(), chunk, width);
                for (int64_t k = 0; k < panels; k++)
                    any_panel(out, t0, t1, V.get(), chunk, width, U.get() + k * of_panel, C, M.get(), k * PANEL);
            }
        }
        return;
    }

    // Many filters: each thread takes some panels through all tiles; the filters stay in its own cache.
    const int64_t most = std::max<int64_t>(chunk, SHARED / (FREQUENCIES * width * 4) / chunk * chunk), rows = std::min(most, tiles);
    const Buffer V = buffer(FREQUENCIES * rows * width);
#pragma omp parallel num_threads(threads)
    {
        Strip strip(in);
        const Buffer U = buffer(of_panel), M = buffer(FREQUENCIES * chunk * PANEL);
        for (int64_t begin = 0; begin < tiles; begin += rows) {
            const int64_t end = std::min(tiles, begin + rows);
#pragma omp for schedule(static)
            for (int64_t t = begin; t < end; t++) load_tiles(in, strip, t, t + 1, V.get() + (t - begin) * width, rows, width);
#pragma omp for schedule(static)
            for (int64_t k = 0; k < panels; k++) {
                any_load_panel(filters, k * PANEL, U.get());
                for (int64_t t0 = begin; t0 < end; t0 += chunk)
                    any_panel(out, t0, std::min(end, t0 + chunk), V.get() + (t0 - begin) * width, rows, width, U.get(), C, M.get(), k * PANEL);
            }
        }
    }
}

// dw (K, 3, 3, C) and sums (B, K) of dy (B, H, W, K) over the positions, for the input of `convolution`.
void convolution_gradient(const float* x, int64_t B, int64_t H, int64_t W, int64_t C, int64_t up, const float* scale, const float* shift,
                          int64_t silu, const float* dy, int64_t K, float* dw, float* sums, int64_t threads) {
    const Pictures in{x, B, H, W, C, up, scale, shift, silu != 0}, gradients{dy, B, H, W, K, 1, nullptr, nullptr, false};
    const int64_t tiles = in.tiles(), v_width = padded(C), d_width = padded(K);
    const int64_t rows = std::min(tiles, std::max<int64_t>(64, SHARED / (FREQUENCIES * (v_width + d_width) * 4)));
    const Buffer V = buffer(FREQUENCIES * rows * v_width), D = buffer(FREQUENCIES * rows * d_width);
    const int64_t panels = (C + PANEL - 1) / PANEL, blocks = K / LANES * panels;
    std::memset(dw, 0, K * 9 * C * 4);
#pragma omp parallel num_threads(threads)
    {
        Strip strip(in);
#pragma omp for schedule(static)
        for (int64_t n = 0; n < B; n++)
            for (int64_t k = 0; k < K; k += LANES) {
                vec sum{};
                for (int64_t p = 0; p < H * W; p++) sum += load(dy + (n * H * W + p) * K + k);
                store(sums + n * K + k, sum);
            }
        for (int64_t begin = 0; begin < tiles; begin += rows) {
            const int64_t end = std::min(tiles, begin + rows);
#pragma omp for schedule(static)
            for (int64_t t = begin; t < end; t++) {
                load_tiles(in, strip, t, t + 1, V.get() + (t - begin) * v_width, rows, v_width);
                load_gradients(gradients, t, t + 1, D.get() + (t - begin) * d_width, rows, d_width);
            }
#pragma omp for schedule(static)
            for (int64_t b = 0; b < blocks; b++) {
                const int64_t c0 = b % panels * PANEL, k0 = b / panels * LANES;
                if (c0 + PANEL <= C)
                    filter_gradient<WIDE>(D.get(), d_width, V.get(), v_width, rows, end - begin, dw, C, k0, c0);
                else
                    filter_gradient<1>(D.get(), d_width, V.get(), v_width, rows, end - begin, dw, C, k0, c0);
            }
        }
    }
}

// Of group normalisation, one function each for float32 and bfloat16 pictures (B, P, C):
//
// norm_tables    mean and 1 / standard deviation (B, G), and the tables (B, C) of scale x + shift, the normalised picture times
//                `weight` plus `bias`: (C), or (B, C) with a stride of C
// norm_apply     y = scale x + shift, through SiLU or not
// norm_gradient  from the gradient g at that y, the one at x (dx may be g), and those of weight and bias by picture, (B, C);
//                the formulas are those of `GroupNorm` in Python
#define NORM(T, NAME)                                                                                                                 \
    void norm_tables_##NAME(const T* x, int64_t B, int64_t P, int64_t C, int64_t G, float eps, const float* weight, const float* bias, \
                            int64_t stride, float* mean, float* rstd, float* scale, float* shift, int64_t threads) {                  \
        tables(x, B, P, C, G, eps, weight, bias, stride, mean, rstd, scale, shift, threads);                                          \
    }                                                                                                                                 \
    void norm_apply_##NAME(const T* x, int64_t B, int64_t P, int64_t C, const float* scale, const float* shift, int64_t silu, T* y,   \
                           int64_t threads) {                                                                                         \
        apply(x, B, P, C, scale, shift, silu, y, threads);                                                                            \
    }                                                                                                                                 \
    void norm_gradient_##NAME(const T* x, int64_t B, int64_t P, int64_t C, int64_t G, const float* weight, int64_t stride,            \
                              const float* mean, const float* rstd, const float* scale, const float* shift, int64_t silu, const T* g, \
                              T* dx, float* dweight, float* dbias, int64_t threads) {                                                 \
        gradient(x, B, P, C, G, weight, stride, mean, rstd, scale, shift, silu, g, dx, dweight, dbias, threads);                      \
    }
NORM(float, float32)
NORM(bfloat16, bfloat16)
}
