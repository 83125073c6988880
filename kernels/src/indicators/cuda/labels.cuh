// Labels, one thread per row of one series: the twins of the loops in labels.rs, with the same bits.
// Grid: (rows / blockDim.x), block: any. The table holds the parameters, then the columns that are read, then those that are
// written, each [rows].

// The row of this thread, and whether there is one.
struct Own {
    const u64* table;
    i64 row, n_rows;
    __device__ Own(const u64* table, const u64* segments)
        : table(table), row((i64)blockIdx.x * blockDim.x + threadIdx.x), n_rows((i64)segments[1]) {}
    __device__ bool is_there() const { return row < n_rows; }
    __device__ double parameter(int k) const { return column(table, 0)[k]; }
    // Column `k` of those that are read, at the row.
    __device__ const double* in(int k) const { return column(table, 1 + k) + row; }
    __device__ void put(int k, double x) const { column(table, 1 + k)[row] = x; }
};

// The price `share` of the close away, or `times` the value of the row where `times` is not NaN.
__device__ inline double barrier(double close, double share, double times, double value, double sign) {
    return is_nan(times) ? close * (1.0 + sign * share) : close + sign * (times * value);
}

// Reads high, low, close, widths of the target, widths of the stop; writes the exit, bars, returns.
// Parameters: 1 long or -1 short, the horizon, the target's share and times, the stop's share and times.
extern "C" __global__ void triple_barrier(const u64* table, const u64* segments, u64) {
    const Own own(table, segments);
    if (!own.is_there()) return;
    const double *const high = own.in(0), *const low = own.in(1), *const close = own.in(2);
    const double side = own.parameter(0);
    const bool is_long = side > 0.0;
    const i64 horizon = (i64)own.parameter(1);
    const double target = barrier(close[0], own.parameter(2), own.parameter(3), own.in(3)[0], side);
    const double stop = barrier(close[0], own.parameter(4), own.parameter(5), own.in(4)[0], -side);
    const double upper = is_long ? target : stop, lower = is_long ? stop : target;
    double how = nan_value(), bars = nan_value(), fill = nan_value();
    if (own.row + horizon < own.n_rows && !is_nan(upper) && !is_nan(lower)) {
        i64 ahead = 1;
        while (ahead <= horizon && high[ahead] < upper && low[ahead] > lower) ahead++;
        if (ahead > horizon) {
            ahead = horizon;
            how = 0.0;
            fill = close[horizon];
        } else if (!is_nan(high[ahead]) && !is_nan(low[ahead])) {
            const bool is_stop = is_long ? low[ahead] <= lower : high[ahead] >= upper;
            how = is_stop ? -1.0 : 1.0;
            fill = is_stop ? stop : target;
        }
        bars = (double)ahead;
    }
    const bool is_defined = !is_nan(fill);
    own.put(5, is_defined ? how : nan_value());
    own.put(6, is_defined ? bars : nan_value());
    own.put(7, is_defined ? side * (fill / close[0] - 1.0) : nan_value());
}

// How many spans hold the row; parameter: the longest span. Reads bars; writes the count.
extern "C" __global__ void concurrency(const u64* table, const u64* segments, u64) {
    const Own own(table, segments);
    if (!own.is_there()) return;
    const double* const bars = own.in(0);
    const i64 longest = (i64)own.parameter(0), first = own.row < longest ? own.row : longest;
    i64 open = 0;
    for (i64 back = 1; back <= first; back++) open += bars[-back] >= (double)back;
    own.put(1, (double)open);
}

// The mean of 1 / concurrency over the span of the row, in whole parts of 1 / `unit`, the parameter. Reads bars and the
// concurrency.
extern "C" __global__ void uniqueness(const u64* table, const u64* segments, u64) {
    const Own own(table, segments);
    if (!own.is_there()) return;
    const double bars = own.in(0)[0], unit = own.parameter(0);
    const double* const count = own.in(1);
    double mean = nan_value();
    if (!is_nan(bars)) {
        u64 total = 0;
        for (i64 ahead = 1; ahead <= (i64)bars && own.row + ahead < own.n_rows; ahead++)
            if (count[ahead] > 0.0) total += (u64)(unit / count[ahead]);
        mean = (double)total / unit / bars;
    }
    own.put(2, mean);
}

// Parameter: the horizon. Reads the close.
extern "C" __global__ void forward_return(const u64* table, const u64* segments, u64) {
    const Own own(table, segments);
    if (!own.is_there()) return;
    const i64 horizon = (i64)own.parameter(0);
    const double* const close = own.in(0);
    const double simple = own.row + horizon < own.n_rows ? close[horizon] / close[0] - 1.0 : nan_value();
    own.put(1, fabs(simple) <= 1.7976931348623157e308 ? simple : nan_value());
}

// Parameters: the horizon, the buffer, the numbers for up, down and neither. Reads the close.
extern "C" __global__ void direction(const u64* table, const u64* segments, u64) {
    const Own own(table, segments);
    if (!own.is_there()) return;
    const i64 horizon = (i64)own.parameter(0);
    const double* const close = own.in(0);
    double label = nan_value();
    if (own.row + horizon < own.n_rows) {
        const double change = close[horizon] - close[0], buffer = own.parameter(1) * close[0];
        if (!is_nan(change))
            label = own.parameter(change > buffer ? 2 : change < -buffer ? 3 : 4);
    }
    own.put(1, label);
}

// Reads close, short and long mean, slope, volume and its mean, position, relative strength, histogram, +DI, -DI; writes the
// buy and the sell conditions that hold. Parameters: volume spike, position to buy, position to sell.
extern "C" __global__ void signal_counts(const u64* table, const u64* segments, u64) {
    const Own own(table, segments);
    if (!own.is_there()) return;
    bool is_defined = own.row > 0;
    for (int k = 0; k < 11; k++) is_defined = is_defined && !is_nan(own.in(k)[0]);
    is_defined = is_defined && !is_nan(own.in(7)[-1]) && !is_nan(own.in(8)[-1]);
    double buy = nan_value(), sell = nan_value();
    if (is_defined) {
        const double close = own.in(0)[0], short_mean = own.in(1)[0], long_mean = own.in(2)[0];
        const double slope = own.in(3)[0], position = own.in(6)[0];
        const double rsi = own.in(7)[0], rsi_before = own.in(7)[-1];
        const double histogram = own.in(8)[0], histogram_before = own.in(8)[-1];
        const bool is_spike = own.in(4)[0] > own.parameter(0) * own.in(5)[0];
        buy = (close > short_mean && short_mean > long_mean) + (rsi > 50.0 || (rsi > 30.0 && rsi_before <= 30.0))
            + (close > short_mean && slope > 0.0) + is_spike + (position >= own.parameter(1))
            + (histogram > 0.0 && histogram > histogram_before);
        sell = (close < short_mean && short_mean < long_mean) + (rsi < 50.0 || (rsi < 70.0 && rsi_before >= 70.0))
            + (close < short_mean && slope < 0.0) + (is_spike && position <= own.parameter(2))
            + (histogram < 0.0 && histogram < histogram_before) + (own.in(10)[0] > own.in(9)[0]);
    }
    own.put(11, buy);
    own.put(12, sell);
}

// Reads trend, directional index, range, its threshold, volume ratio. Parameters: strong trend, strong index, volatile volume.
extern "C" __global__ void regime(const u64* table, const u64* segments, u64) {
    const Own own(table, segments);
    if (!own.is_there()) return;
    const double trend = own.in(0)[0], adx = own.in(1)[0], range = own.in(2)[0];
    const double threshold = own.in(3)[0], ratio = own.in(4)[0], strong = own.parameter(0);
    const bool is_strong = adx > own.parameter(1);
    double label = 2.0;
    if (is_nan(trend) || is_nan(adx) || is_nan(range) || is_nan(threshold) || is_nan(ratio))
        label = nan_value();
    else if (range > threshold || ratio > own.parameter(2))
        label = 5.0;
    else if (trend > strong && is_strong)
        label = 0.0;
    else if (trend > 0.0 && trend <= strong && !is_strong)
        label = 1.0;
    else if (trend < -strong && is_strong)
        label = 4.0;
    else if (trend < 0.0 && trend >= -strong && !is_strong)
        label = 3.0;
    own.put(5, label);
}
