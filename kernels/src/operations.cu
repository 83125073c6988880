// The twins of fused operations on a card, in single precision: the same chains in the same order as on the CPU, so with the
// same bits. A thread computes one element of a result, or one chain of sums; nothing is shared and nothing is atomic.
//
// Every kernel takes a table of addresses, a table of sizes and the number of threads that have work; threads beyond it, which
// fill up the last block, do nothing. Grid: x blocks of any number of threads.

typedef unsigned long long u64;

#ifdef NATRON_SHIM
static inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
#endif

#define KERNEL(name) extern "C" __global__ void name(const u64* table, const u64* sizes, u64 n_threads)
#define THREAD                                                 \
    const u64 k = (u64)blockIdx.x * blockDim.x + threadIdx.x;  \
    if (k >= n_threads) return;

__device__ inline const float* in(const u64* table, int k) { return (const float*)table[k]; }
__device__ inline float* out(const u64* table, int k) { return (float*)table[k]; }

// `lanes::exp`.
__device__ inline float exp_f32(float x) {
    const float lowest = -87.3f, highest = 88.3f, round = 12582912.0f;
    float clamped = x < lowest ? lowest : x;
    clamped = clamped > highest ? highest : clamped;
    const float rounded = fmaf(clamped, 1.44269504088896340736f, round);
    const float n = rounded - round;
    float r = fmaf(n, -0.693359375f, clamped);
    r = fmaf(n, 2.12194440e-4f, r);
    float p = 1.98756915e-4f;
    p = fmaf(p, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    const float y = fmaf(p, r * r, r) + 1.0f;
    const float power = __uint_as_float((__float_as_uint(rounded) << 23) + (127u << 23));
    const float value = x < lowest ? 0.0f : y * power;
    return x != x ? x : value;
}

// `activations::sigmoid`.
__device__ inline float sigmoid_f32(float x) { return 1.0f / (1.0f + exp_f32(-x)); }

// `activations::tanh`.
__device__ inline float tanh_f32(float x) {
    const float bound = 7.905311107635498f;
    x = x < -bound ? -bound : x;
    x = x > bound ? bound : x;
    const float square = x * x;
    float p = -2.76076847742355e-16f;
    p = fmaf(p, square, 2.00018790482477e-13f);
    p = fmaf(p, square, -8.60467152213735e-11f);
    p = fmaf(p, square, 5.12229709037114e-8f);
    p = fmaf(p, square, 1.48572235717979e-5f);
    p = fmaf(p, square, 6.37261928875436e-4f);
    p = fmaf(p, square, 4.89352455891786e-3f);
    float q = 1.19825839466702e-6f;
    q = fmaf(q, square, 1.18534705686654e-4f);
    q = fmaf(q, square, 2.26843463243900e-3f);
    q = fmaf(q, square, 4.89352518554385e-3f);
    return x * p / q;
}

// One step of an LSTM. table: pre-activations [n, 4 hidden] in the order i, f, g, o, which become gates; cells [n, hidden],
// updated; states [n, hidden], written. sizes: hidden. Threads: n * hidden.
KERNEL(lstm_step_f32) {
    THREAD
    const u64 hidden = sizes[0], row = k / hidden, unit = k % hidden;
    float* gates = out(table, 0) + row * 4 * hidden + unit;
    float* cell = out(table, 1) + k;
    const float i = sigmoid_f32(gates[0]), f = sigmoid_f32(gates[hidden]);
    const float g = tanh_f32(gates[2 * hidden]), o = sigmoid_f32(gates[3 * hidden]);
    *cell = fmaf(f, *cell, i * g);
    out(table, 2)[k] = o * tanh_f32(*cell);
    gates[0] = i;
    gates[hidden] = f;
    gates[2 * hidden] = g;
    gates[3 * hidden] = o;
}

// Its gradients. table: gates [n, 4 hidden]; cells of the step and of the step before, gradients of the states
// [n, hidden]; gradients of the cells [n, hidden], which become those of the step before; gradients of the pre-activations
// [n, 4 hidden], written. sizes: hidden. Threads: n * hidden.
KERNEL(lstm_step_gradient_f32) {
    THREAD
    const u64 hidden = sizes[0], row = k / hidden, unit = k % hidden;
    const float* gates = in(table, 0) + row * 4 * hidden + unit;
    float* to = out(table, 5) + row * 4 * hidden + unit;
    const float i = gates[0], f = gates[hidden], g = gates[2 * hidden], o = gates[3 * hidden];
    const float before = in(table, 2)[k], dh = in(table, 3)[k];
    float* dc = out(table, 4) + k;
    const float squashed = tanh_f32(in(table, 1)[k]);
    const float d = fmaf(fmaf(squashed, -squashed, 1.0f), dh * o, *dc);
    to[0] = d * g * i * (1.0f - i);
    to[hidden] = d * before * f * (1.0f - f);
    to[2 * hidden] = d * i * fmaf(g, -g, 1.0f);
    to[3 * hidden] = dh * squashed * o * (1.0f - o);
    *dc = d * f;
}

// SiLU(a) b. table: packed [rows, 2 width], result [rows, width]. sizes: width. Threads: rows * width.
KERNEL(swiglu_f32) {
    THREAD
    const u64 width = sizes[0];
    const float* a = in(table, 0) + k / width * 2 * width + k % width;
    out(table, 1)[k] = a[0] * sigmoid_f32(a[0]) * a[width];
}

// Its gradient. table: packed [rows, 2 width], gradient [rows, width], result [rows, 2 width]. sizes: width. Threads:
// rows * width.
KERNEL(swiglu_gradient_f32) {
    THREAD
    const u64 width = sizes[0], at = k / width * 2 * width + k % width;
    const float* a = in(table, 0) + at;
    const float g = in(table, 1)[k], s = sigmoid_f32(a[0]);
    float* to = out(table, 2) + at;
    to[0] = g * a[width] * (s * fmaf(1.0f - s, a[0], 1.0f));
    to[width] = g * (a[0] * s);
}

// Mean and standard deviation over time. table: x [batch, length, width], result [batch, 2, width]. sizes: length, width.
// Threads: batch * width, a column each; neighbours read neighbours.
KERNEL(window_statistics_f32) {
    THREAD
    const u64 length = sizes[0], width = sizes[1], window = k / width, column = k % width;
    const float* x = in(table, 0) + window * length * width + column;
    float mean = 0.0f;
    for (u64 t = 0; t < length; t++) mean += x[t * width];
    mean /= (float)length;
    float sum = 0.0f;
    for (u64 t = 0; t < length; t++) sum = fmaf(x[t * width] - mean, x[t * width] - mean, sum);
    float* to = out(table, 1) + window * 2 * width + column;
    to[0] = mean;
    to[width] = sqrtf(sum / (float)length + 1e-5f);
}

// Their gradient. table: x [batch, length, width], statistics and their gradient [batch, 2, width], result like x. sizes:
// length, width. Threads: batch * length * width.
KERNEL(window_statistics_gradient_f32) {
    THREAD
    const u64 length = sizes[0], width = sizes[1];
    const u64 at = k / (length * width) * 2 * width + k % width;
    const float* statistics = in(table, 1) + at;
    const float* g = in(table, 2) + at;
    const float slope = (in(table, 0)[k] - statistics[0]) / statistics[width];
    out(table, 3)[k] = fmaf(slope, g[width], g[0]) / (float)length;
}

// (x - mean) / deviation * gain + shift. table: x [batch, length, width], statistics [batch, 2, width], affine [2, width],
// result like x. sizes: length, width. Threads: batch * length * width.
KERNEL(normalize_f32) {
    THREAD
    const u64 length = sizes[0], width = sizes[1], column = k % width;
    const float* statistics = in(table, 1) + k / (length * width) * 2 * width + column;
    const float* affine = in(table, 2) + column;
    out(table, 3)[k] = fmaf((in(table, 0)[k] - statistics[0]) / statistics[width], affine[0], affine[width]);
}

// Its gradients, but for the sum over windows of those of `affine`. table: x, statistics, affine, gradient as above; results:
// of x, of the statistics [batch, 2, width], of affine for each window [batch, 2, width]. sizes: length, width. Threads:
// batch * width, a column each.
KERNEL(normalize_gradient_f32) {
    THREAD
    const u64 length = sizes[0], width = sizes[1], window = k / width, column = k % width;
    const u64 first = window * length * width + column, at = window * 2 * width + column;
    const float mean = in(table, 1)[at], deviation = in(table, 1)[at + width], gain = in(table, 2)[column];
    float of_mean = 0.0f, of_deviation = 0.0f, of_gain = 0.0f, of_shift = 0.0f;
    for (u64 t = 0; t < length; t++) {
        const u64 cell = first + t * width;
        const float g = in(table, 3)[cell], normal = (in(table, 0)[cell] - mean) / deviation;
        const float direct = g * gain / deviation;
        out(table, 4)[cell] = direct;
        of_mean -= direct;
        of_deviation = fmaf(-direct, normal, of_deviation);
        of_gain = fmaf(g, normal, of_gain);
        of_shift += g;
    }
    out(table, 5)[at] = of_mean;
    out(table, 5)[at + width] = of_deviation;
    out(table, 6)[at] = of_gain;
    out(table, 6)[at + width] = of_shift;
}

// SiLU and splines of an input (`kan.rs`): values in v[1 + splines], slopes in s; only the `degree + 1` splines from `first`
// on are not 0.
struct Expansion {
    float silu, silu_slope, values[6], slopes[6];
    u64 first;
};

__device__ inline Expansion expanded(float x, float low, float high, u64 intervals, u64 degree) {
    Expansion e;
    const float s = sigmoid_f32(x);
    e.silu = x * s;
    e.silu_slope = s * fmaf(1.0f - s, x, 1.0f);
    const float spacing = (high - low) / (float)intervals;
    float nearest = x < low ? low : x;
    nearest = nearest > high ? high : nearest;
    const float place = (nearest - low) / spacing;
    // A NaN counts as the first interval, as in Rust.
    e.first = place >= 0.0f ? (u64)place : 0;
    if (e.first > intervals - 1) e.first = intervals - 1;
    const float u = place - (float)e.first;
    for (int i = 0; i < 6; i++) e.values[i] = e.slopes[i] = 0.0f;
    e.values[0] = 1.0f;
    for (int d = 1; d <= (int)degree; d++) {
        if (d == (int)degree)
            for (int i = 0; i <= d; i++) e.slopes[i] = ((i > 0 ? e.values[i - 1] : 0.0f) - e.values[i]) / spacing;
        for (int i = d; i >= 0; i--) {
            const float before = i > 0 ? e.values[i - 1] : 0.0f;
            const float rise = u + (float)(d - i), fall = (float)(i + 1) - u;
            e.values[i] = fmaf(rise, before, fall * e.values[i]) / (float)d;
        }
    }
    for (int i = 0; i <= (int)degree; i++) e.values[i] = fmaf(e.slopes[i], x - nearest, e.values[i]);
    return e;
}

// SiLU and splines of every input. table: x [n], low and high [2], result [n, 1 + intervals + degree]. sizes: intervals,
// degree (5 at most). Threads: n.
KERNEL(kan_f32) {
    THREAD
    const u64 intervals = sizes[0], degree = sizes[1], columns = 1 + intervals + degree;
    const float* ends = in(table, 1);
    const Expansion e = expanded(in(table, 0)[k], ends[0], ends[1], intervals, degree);
    float* to = out(table, 2) + k * columns;
    to[0] = e.silu;
    for (u64 i = 0; i < intervals + degree; i++)
        to[1 + i] = i >= e.first && i <= e.first + degree ? e.values[i - e.first] : 0.0f;
}

// Its gradient. table: x [n], low and high [2], gradient [n, 1 + intervals + degree], result [n]. sizes: intervals, degree.
// Threads: n.
KERNEL(kan_gradient_f32) {
    THREAD
    const u64 intervals = sizes[0], degree = sizes[1];
    const float* ends = in(table, 1);
    const Expansion e = expanded(in(table, 0)[k], ends[0], ends[1], intervals, degree);
    const float* g = in(table, 2) + k * (1 + intervals + degree);
    float sum = fmaf(e.silu_slope, g[0], 0.0f);
    for (u64 i = 0; i < intervals + degree; i++)
        sum = fmaf(i >= e.first && i <= e.first + degree ? e.slopes[i - e.first] : 0.0f, g[1 + i], sum);
    out(table, 3)[k] = sum;
}

// A causal dilated convolution over time. table: x [batch, length, inputs], weight [outputs, inputs, kernel], bias [outputs],
// result [batch, length, outputs]. sizes: length, inputs, outputs, kernel, dilation. Threads: batch * length * outputs.
KERNEL(causal_convolution_f32) {
    THREAD
    const u64 length = sizes[0], inputs = sizes[1], outputs = sizes[2], kernel = sizes[3], dilation = sizes[4];
    const u64 row = k / outputs, output = k % outputs, t = row % length;
    float sum = in(table, 2)[output];
    for (u64 tap = 0; tap < kernel; tap++) {
        const u64 shift = (kernel - 1 - tap) * dilation;
        if (shift > t) continue;
        const float* x = in(table, 0) + (row - shift) * inputs;
        const float* weight = in(table, 1) + output * inputs * kernel + tap;
        for (u64 i = 0; i < inputs; i++) sum = fmaf(x[i], weight[i * kernel], sum);
    }
    out(table, 3)[k] = sum;
}

// Its gradient with respect to x. table: gradient [batch, length, outputs], weight, result like x. sizes as above. Threads:
// batch * length * inputs.
KERNEL(causal_convolution_gradient_f32) {
    THREAD
    const u64 length = sizes[0], inputs = sizes[1], outputs = sizes[2], kernel = sizes[3], dilation = sizes[4];
    const u64 row = k / inputs, input = k % inputs, t = row % length;
    float sum = 0.0f;
    for (u64 tap = 0; tap < kernel; tap++) {
        const u64 shift = (kernel - 1 - tap) * dilation;
        if (t + shift >= length) continue;
        const float* g = in(table, 0) + (row + shift) * outputs;
        const float* weight = in(table, 1) + input * kernel + tap;
        for (u64 o = 0; o < outputs; o++) sum = fmaf(g[o], weight[o * inputs * kernel], sum);
    }
    out(table, 2)[k] = sum;
}

// Its gradient with respect to the weights: chains over `sizes[6]` windows, added in order. table: x, gradient, result like
// weight. sizes as above, then batch and the windows of a chain. Threads: outputs * inputs * kernel.
KERNEL(causal_convolution_weight_gradient_f32) {
    THREAD
    const u64 length = sizes[0], inputs = sizes[1], outputs = sizes[2], kernel = sizes[3], dilation = sizes[4];
    const u64 batch = sizes[5], together = sizes[6];
    const u64 tap = k % kernel, input = k / kernel % inputs, output = k / kernel / inputs;
    const u64 shift = (kernel - 1 - tap) * dilation;
    float total = 0.0f, sum = 0.0f;
    for (u64 window = 0; window < batch; window++) {
        const float* x = in(table, 0) + window * length * inputs + input;
        const float* g = in(table, 1) + window * length * outputs + output;
        for (u64 t = shift; t < length; t++) sum = fmaf(x[(t - shift) * inputs], g[t * outputs], sum);
        if ((window + 1) % together == 0 || window + 1 == batch) {
            total = window < together ? sum : total + sum;
            sum = 0.0f;
        }
    }
    out(table, 2)[k] = total;
}
