// Recurrences row by row: twins of `recurrence/*.rs`. A row in which an input is missing gives NaN and starts all anew.
//
// A kernel has INPUTS, OUTPUTS, CARRY numbers carried along (0 at first), and `row`: the outputs of one row, `row` rows after
// the start; `before` are the inputs of the row before.

template <class K>
struct Scan : K {
    static const int INPUTS = K::INPUTS, OUTPUTS = K::OUTPUTS, WORDS = 1 + K::CARRY + K::INPUTS;
    i64 rows;
    double carry[K::CARRY], last[K::INPUTS];
    __device__ explicit Scan(K kernel) : K(kernel) { start(); }
    __device__ void start() {
        rows = 0;
        for (int k = 0; k < K::CARRY; k++) carry[k] = 0.0;
        for (int i = 0; i < INPUTS; i++) last[i] = nan_value();
    }
    __device__ void step(const double* x, double* out) {
        bool is_missing = false;
        for (int i = 0; i < INPUTS; i++) is_missing |= !(fabs(x[i]) <= 1.7976931348623157e308);
        if (is_missing) {
            start();
            for (int i = 0; i < OUTPUTS; i++) out[i] = nan_value();
        } else {
            this->row(carry, rows, x, last, out);
            // Rows that are counted for nothing must not tell states apart.
            if (rows < K::FIRST_ROWS) rows++;
        }
        for (int i = 0; i < INPUTS; i++) last[i] = x[i];
    }
    __device__ void put(double* words) const {
        words[0] = (double)rows;
        for (int k = 0; k < K::CARRY; k++) words[1 + k] = carry[k];
        for (int i = 0; i < INPUTS; i++) words[1 + K::CARRY + i] = last[i];
    }
    __device__ void take(const double* words) {
        rows = (i64)words[0];
        for (int k = 0; k < K::CARRY; k++) carry[k] = words[1 + k];
        for (int i = 0; i < INPUTS; i++) last[i] = words[1 + K::CARRY + i];
    }
};

// More rows than any seed has.
const i64 ALL_ROWS = 1ll << 40;

// A mean with fading weights; its state is `s = (x - y) / b`.
struct Average {
    double b, a;
    i64 first, n_seeds;
    __device__ i64 seed_row() const { return first + n_seeds - 1; }
    // Whether there is a value, which is `distance` from x.
    __device__ bool row(double& s, double& sum, i64 row, double x, double change, double& distance) const {
        if (row < first) return false;
        if (row > seed_row()) {
            s = fma(b, s, change);
        } else {
            sum += x;
            if (row < seed_row()) return false;
            const double far = x - sum / (double)n_seeds;
            s = b == 0.0 ? 0.0 : far / b;
        }
        distance = -(b * s);
        return true;
    }
};

__device__ inline Average exponential(i64 period, i64 first) {
    const double n = (double)period;
    return Average{(n - 1.0) / (n + 1.0), 2.0 / (n + 1.0), first, period};
}

__device__ inline Average exponential_from_first(i64 period) {
    Average average = exponential(period, 0);
    average.n_seeds = 1;
    return average;
}

__device__ inline Average wilder(i64 period, i64 first) {
    const double n = (double)period;
    return Average{(n - 1.0) / n, 1.0 / n, first, period};
}

struct MeanKernel {
    static const int INPUTS = 1, OUTPUTS = 1, CARRY = 3;
    static const i64 FIRST_ROWS = ALL_ROWS;
    Average average;
    __device__ void row(double* carry, i64 row, const double* x, const double* before, double* out) const {
        if (row == 0) carry[2] = x[0];
        double distance;
        const bool is = average.row(carry[0], carry[1], row, x[0] - carry[2], x[0] - before[0], distance);
        out[0] = is ? x[0] + distance : nan_value();
    }
};

template <u64 PERIOD, u64 SKIP>
__device__ Scan<MeanKernel> ema() { return Scan<MeanKernel>(MeanKernel{exponential(PERIOD, SKIP)}); }
template <u64 PERIOD>
__device__ Scan<MeanKernel> ema0() { return Scan<MeanKernel>(MeanKernel{exponential_from_first(PERIOD)}); }
template <u64 PERIOD, u64 SKIP>
__device__ Scan<MeanKernel> rma() { return Scan<MeanKernel>(MeanKernel{wilder(PERIOD, SKIP)}); }

struct MacdKernel {
    static const int INPUTS = 1, OUTPUTS = 3, CARRY = 7;
    static const i64 FIRST_ROWS = ALL_ROWS;
    Average fast, slow, signal;
    __device__ void row(double* c, i64 row, const double* x, const double* before, double* out) const {
        if (row == 0) c[6] = x[0];
        const double distance = x[0] - c[6], change = x[0] - before[0];
        double of_fast, of_slow, of_signal;
        const bool is_fast = fast.row(c[0], c[3], row, distance, change, of_fast);
        const bool is_slow = slow.row(c[1], c[4], row, distance, change, of_slow);
        out[0] = out[1] = out[2] = nan_value();
        if (!is_fast || !is_slow) return;
        const double line = of_fast - of_slow;
        if (signal.row(c[2], c[5], row, line, fast.a * c[0] - slow.a * c[1], of_signal)) {
            out[0] = line;
            out[1] = line + of_signal;
            out[2] = -of_signal;
        }
    }
};

template <u64 FAST, u64 SLOW, u64 SIGNAL>
__device__ Scan<MacdKernel> macd() {
    return Scan<MacdKernel>(
        MacdKernel{exponential(FAST, SLOW - FAST), exponential(SLOW, 0), exponential(SIGNAL, SLOW - 1)});
}
template <u64 FAST, u64 SLOW, u64 SIGNAL>
__device__ Scan<MacdKernel> macd0() {
    return Scan<MacdKernel>(
        MacdKernel{exponential_from_first(FAST), exponential_from_first(SLOW), exponential_from_first(SIGNAL)});
}

// `100 * part / whole`; 0 where the whole is 0.
__device__ inline double percent(double part, double whole) { return whole == 0.0 ? 0.0 : 100.0 * (part / whole); }

template <bool SIGNED>
struct StrengthKernel {
    static const int INPUTS = 1, OUTPUTS = 1, CARRY = 2;
    static const i64 FIRST_ROWS = ALL_ROWS;
    i64 period;
    double b;
    __device__ explicit StrengthKernel(i64 n) : period(n), b(((double)n - 1.0) / (double)n) {}
    __device__ void row(double* carry, i64 row, const double* x, const double* before, double* out) const {
        out[0] = nan_value();
        if (row == 0) return;
        const double change = x[0] - before[0];
        const double part = SIGNED || change > 0.0 ? change : 0.0;
        if (row <= period) {
            carry[0] += part;
            carry[1] += fabs(change);
        } else {
            carry[0] = fma(b, carry[0], part);
            carry[1] = fma(b, carry[1], fabs(change));
        }
        if (row >= period) out[0] = percent(carry[0], carry[1]);
    }
};

template <u64 PERIOD>
__device__ Scan<StrengthKernel<false>> rsi() { return Scan<StrengthKernel<false>>(StrengthKernel<false>(PERIOD)); }
template <u64 PERIOD>
__device__ Scan<StrengthKernel<true>> cmo() { return Scan<StrengthKernel<true>>(StrengthKernel<true>(PERIOD)); }


// `x` and a weighted sum of the steps of a cascade of K means; its change in percent if RATE.
template <int K, bool RATE>
struct Cascade {
    static const int INPUTS = 1, OUTPUTS = 1, CARRY = 2 * K + 1;
    static const i64 FIRST_ROWS = ALL_ROWS;
    i64 period;
    Average average;
    double weights[K];
    __device__ Cascade(i64 n, const double* of_steps) : period(n), average(exponential(n, 0)) {
        for (int k = 0; k < K; k++) weights[k] = -of_steps[k] * average.b;
    }
    __device__ void row(double* carry, i64 row, const double* x, const double* before, double* out) const {
        double* const s = carry;
        double* const sums = carry + K;
        if (row == 0) carry[2 * K] = x[0];
        double mean = x[0] - carry[2 * K], change = x[0] - before[0], y = x[0];
        out[0] = nan_value();
        for (int k = 0; k < K; k++) {
            const i64 of_step = row - k * (period - 1);
            double step;
            if (of_step < 0 || !average.row(s[k], sums[k], of_step, mean, change, step)) return;
            mean += step;
            change = average.a * s[k];
            y = fma(weights[k], s[k], y);
        }
        if (!RATE) out[0] = y;
        else if (row >= K * (period - 1) + 1) out[0] = 100.0 * (change / (y - change));
    }
};

template <u64 PERIOD>
__device__ inline Scan<Cascade<2, false>> dema() {
    const double weights[] = {1.0, -1.0};
    return Scan<Cascade<2, false>>(Cascade<2, false>((i64)number(PERIOD), weights));
}
template <u64 PERIOD>
__device__ inline Scan<Cascade<3, false>> tema() {
    const double weights[] = {1.0, -2.0, 1.0};
    return Scan<Cascade<3, false>>(Cascade<3, false>((i64)number(PERIOD), weights));
}
template <u64 PERIOD>
__device__ inline Scan<Cascade<3, true>> trix() {
    const double weights[] = {1.0, 1.0, 1.0};
    return Scan<Cascade<3, true>>(Cascade<3, true>((i64)number(PERIOD), weights));
}
template <u64 PERIOD, u64 V>
__device__ inline Scan<Cascade<6, false>> t3() {
    const double v = number(V), v2 = v * v, v3 = v * v * v;
    const double e6 = -v3, e5 = 3.0 * (v2 + v3), e4 = -3.0 * (2.0 * v2 + v + v3);
    const double weights[] = {1.0, 1.0, 1.0, e4 + e5 + e6, e5 + e6, e6};
    return Scan<Cascade<6, false>>(Cascade<6, false>((i64)number(PERIOD), weights));
}

// The difference of two means; in percent of the slow one if RELATIVE.
template <bool RELATIVE>
struct DifferenceKernel {
    static const int INPUTS = 1, OUTPUTS = 1, CARRY = 5;
    static const i64 FIRST_ROWS = ALL_ROWS;
    Average fast, slow;
    __device__ void row(double* c, i64 row, const double* x, const double* before, double* out) const {
        if (row == 0) c[4] = x[0];
        const double distance = x[0] - c[4], change = x[0] - before[0];
        double of_fast, of_slow;
        const bool is_fast = fast.row(c[0], c[2], row, distance, change, of_fast);
        const bool is_slow = slow.row(c[1], c[3], row, distance, change, of_slow);
        out[0] = nan_value();
        if (!is_fast || !is_slow) return;
        const double line = of_fast - of_slow;
        out[0] = RELATIVE ? 100.0 * (line / (x[0] + of_slow)) : line;
    }
};
template <u64 FAST, u64 SLOW>
__device__ inline Scan<DifferenceKernel<false>> apo() {
    return Scan<DifferenceKernel<false>>(DifferenceKernel<false>{exponential(FAST, 0), exponential(SLOW, 0)});
}
template <u64 FAST, u64 SLOW>
__device__ inline Scan<DifferenceKernel<true>> ppo() {
    return Scan<DifferenceKernel<true>>(DifferenceKernel<true>{exponential(FAST, 0), exponential(SLOW, 0)});
}

// The true range of a bar after another, both of high, low and close.
__device__ inline double range_after(const double* x, const double* before) {
    const double close = before[2];
    return (x[0] > close ? x[0] : close) - (x[1] < close ? x[1] : close);
}

// Wilder's mean of it over PERIOD rows.
template <u64 PERIOD>
__device__ inline double mean_range(double& mean, i64 row, const double* x, const double* before) {
    const double n = (double)PERIOD;
    if (row > (i64)PERIOD) return mean = fma((n - 1.0) / n, mean, range_after(x, before) * (1.0 / n));
    if (row > 0) mean += range_after(x, before);
    if (row < (i64)PERIOD) return nan_value();
    return mean /= n;
}

template <u64 PERIOD, bool RELATIVE>
struct WidthKernel {
    static const int INPUTS = 3, OUTPUTS = 1, CARRY = 1;
    static const i64 FIRST_ROWS = ALL_ROWS;
    __device__ void row(double* carry, i64 row, const double* x, const double* before, double* out) const {
        const double mean = mean_range<PERIOD>(carry[0], row, x, before);
        out[0] = RELATIVE ? 100.0 * (mean / x[2]) : mean;
    }
};
template <u64 PERIOD>
__device__ inline Scan<WidthKernel<PERIOD, false>> atr() {
    return Scan<WidthKernel<PERIOD, false>>(WidthKernel<PERIOD, false>{});
}
template <u64 PERIOD>
__device__ inline Scan<WidthKernel<PERIOD, true>> natr() {
    return Scan<WidthKernel<PERIOD, true>>(WidthKernel<PERIOD, true>{});
}

// +DI, -DI and DX of high, low and close.
struct DirectionKernel {
    static const int INPUTS = 3, OUTPUTS = 3, CARRY = 3;
    static const i64 FIRST_ROWS = ALL_ROWS;
    i64 period;
    double b;
    __device__ void row(double* sums, i64 row, const double* x, const double* before, double* out) const {
        out[0] = out[1] = out[2] = nan_value();
        if (row == 0) return;
        const double up = x[0] - before[0], down = before[1] - x[1];
        const double plus = up > down && up > 0.0 ? up : 0.0;
        const double minus = down > up && down > 0.0 ? down : 0.0;
        const double movement[3] = {plus, minus, range_after(x, before)};
        for (int k = 0; k < 3; k++) sums[k] = row < period ? sums[k] + movement[k] : fma(b, sums[k], movement[k]);
        if (row < period) return;
        out[0] = percent(sums[0], sums[2]);
        out[1] = percent(sums[1], sums[2]);
        out[2] = percent(fabs(sums[0] - sums[1]), sums[0] + sums[1]);
    }
};
template <u64 PERIOD>
__device__ inline Scan<DirectionKernel> direction() {
    const double n = (double)PERIOD;
    return Scan<DirectionKernel>(DirectionKernel{(i64)PERIOD, (n - 1.0) / n});
}

// Kaufman's mean, as its distance from the series. Inputs: the series, what is left of the distance after a row.
struct KamaKernel {
    static const int INPUTS = 2, OUTPUTS = 1, CARRY = 1;
    static const i64 FIRST_ROWS = 1;
    __device__ void row(double* z, i64, const double* x, const double* before, double* out) const {
        // The first row has no change yet: its distance from the value before it is the whole change.
        z[0] = x[1] * (z[0] - (x[0] - before[0]));
        out[0] = x[0] + z[0];
    }
};
__device__ inline Scan<KamaKernel> kama() { return Scan<KamaKernel>(KamaKernel()); }

struct FadingKernel {
    static const int INPUTS = 1, OUTPUTS = 1, CARRY = 1;
    static const i64 FIRST_ROWS = 1;
    Average average;
    __device__ void row(double* y, i64 row, const double* x, const double*, double* out) const {
        y[0] = row == 0 ? x[0] * x[0] : fma(average.b, y[0], average.a * (x[0] * x[0]));
        out[0] = sqrt(y[0]);
    }
};
template <u64 SPAN>
__device__ inline Scan<FadingKernel> ewma_vol() { return Scan<FadingKernel>(FadingKernel{exponential(SPAN, 0)}); }

// Volume times the place of the close in its bar of high, low and close.
__device__ inline double flow(const double* x) {
    const double range = x[0] - x[1];
    const double term = ((x[2] - x[1]) - (x[0] - x[2])) / range * x[3];
    return range > 0.0 ? term : 0.0;
}

struct OscillatorKernel {
    static const int INPUTS = 4, OUTPUTS = 1, CARRY = 2;
    static const i64 FIRST_ROWS = ALL_ROWS;
    double fast, slow;
    i64 warm_up;
    __device__ void row(double* c, i64 row, const double* x, const double*, double* out) const {
        if (row > 0) {
            const double term = flow(x);
            c[0] = fma(fast, c[0], term);
            c[1] = fma(slow, c[1], term);
        }
        out[0] = row < warm_up ? nan_value() : slow * c[1] - fast * c[0];
    }
};
template <u64 FAST, u64 SLOW>
__device__ inline Scan<OscillatorKernel> adosc() {
    return Scan<OscillatorKernel>(
        OscillatorKernel{exponential(FAST, 0).b, exponential(SLOW, 0).b, (i64)(FAST > SLOW ? FAST : SLOW) - 1});
}

// The stop of Wilder's parabolic system; see `recurrence/stops.rs`.
struct ParabolicKernel {
    static const int INPUTS = 2, OUTPUTS = 1, CARRY = 4;
    static const i64 FIRST_ROWS = 2;
    double acceleration, maximum;
    __device__ static double lowest(double a, double b, double c) {
        a = b < a ? b : a;
        return c < a ? c : a;
    }
    __device__ static void seen_from(double side, double& high, double& low) {
        if (side > 0.0) return;
        const double mirrored = -low;
        low = -high;
        high = mirrored;
    }
    __device__ void row(double* carry, i64 row, const double* x, const double* before, double* out) const {
        double side = carry[0], stop = carry[1], extreme = carry[2], factor = carry[3];
        double high = x[0], low = x[1], high_before = before[0], low_before = before[1];
        out[0] = nan_value();
        if (row == 0) return;
        if (row == 1) {
            const double up = high - high_before, down = low_before - low;
            side = down > 0.0 && down > up ? -1.0 : 1.0;
            factor = acceleration;
            double h = high_before, l = low_before;
            seen_from(side, h, l);
            stop = l;
            h = high;
            l = low;
            seen_from(side, h, l);
            extreme = h;
            high_before = high;
            low_before = low;
        }
        double highest = high;
        seen_from(side, highest, low);
        seen_from(side, high_before, low_before);
        if (low <= stop) {
            side = -side;
            const double mirrored = -low;
            low = -highest;
            highest = mirrored;
            low_before = -high_before;
            stop = lowest(-extreme, low_before, low);
            extreme = highest;
            factor = acceleration;
        } else if (highest > extreme) {
            extreme = highest;
            factor = fmin(factor + acceleration, maximum);
        }
        out[0] = side * stop;
        stop = lowest(fma(factor, extreme - stop, stop), low_before, low);
        carry[0] = side;
        carry[1] = stop;
        carry[2] = extreme;
        carry[3] = factor;
    }
};
template <u64 ACCELERATION, u64 MAXIMUM>
__device__ inline Scan<ParabolicKernel> sar() {
    return Scan<ParabolicKernel>(ParabolicKernel{number(ACCELERATION), number(MAXIMUM)});
}

template <u64 PERIOD>
struct SupertrendKernel {
    static const int INPUTS = 3, OUTPUTS = 2, CARRY = 4;
    static const i64 FIRST_ROWS = PERIOD + 1;
    double width;
    __device__ void row(double* carry, i64 row, const double* x, const double* before, double* out) const {
        const double range = mean_range<PERIOD>(carry[0], row, x, before);
        out[0] = out[1] = nan_value();
        if (row < (i64)PERIOD) return;
        double upper = carry[1], lower = carry[2], side = carry[3];
        const double close = x[2], close_before = before[2];
        const double middle = 0.5 * (x[0] + x[1]);
        const double above = fma(width, range, middle), below = fma(-width, range, middle);
        if (row == (i64)PERIOD) {
            upper = above;
            lower = below;
            side = 1.0;
        } else {
            upper = above < upper || close_before > upper ? above : upper;
            lower = below > lower || close_before < lower ? below : lower;
            side = (side > 0.0 ? close >= lower : close > upper) ? 1.0 : -1.0;
        }
        out[0] = side > 0.0 ? lower : upper;
        out[1] = side;
        carry[1] = upper;
        carry[2] = lower;
        carry[3] = side;
    }
};
template <u64 PERIOD, u64 WIDTH>
__device__ inline Scan<SupertrendKernel<PERIOD>> supertrend() {
    return Scan<SupertrendKernel<PERIOD>>(SupertrendKernel<PERIOD>{number(WIDTH)});
}

// Running sums. They are carried from chunk to chunk: what a chunk does to the sum before it is to add its own, unless an
// input is missing in it. A chunk sees the rows before it, for the row before its first.
template <class Term>
struct Running {
    static const int INPUTS = Term::INPUTS, OUTPUTS = 1, WORDS = 2;
    double sum, is_anew, last[Term::INPUTS];
    bool is_first;
    __device__ Running() : sum(0.0), is_anew(0.0), is_first(true) {}
    // The chunk itself begins.
    __device__ void begin() {
        sum = 0.0;
        is_anew = 0.0;
    }
    __device__ void step(const double* x, double* out) {
        bool is_missing = false;
        for (int i = 0; i < INPUTS; i++) is_missing |= !(fabs(x[i]) <= 1.7976931348623157e308);
        if (is_missing) {
            sum = 0.0;
            is_anew = 1.0;
            out[0] = nan_value();
        } else {
            sum += is_first ? Term::first(x) : Term::next(x, last);
            out[0] = sum;
        }
        is_first = is_missing;
        for (int i = 0; i < INPUTS; i++) last[i] = x[i];
    }
    __device__ void put(double* words) const {
        words[0] = sum;
        words[1] = is_anew;
    }
    __device__ void take(const double* words) {
        sum = words[0];
        is_anew = words[1];
    }
    // The state after a chunk whose own state is given.
    __device__ void pass(const Running& chunk) {
        sum = chunk.is_anew != 0.0 ? chunk.sum : sum + chunk.sum;
        is_anew = 0.0;
    }
};

struct PlainTerm {
    static const int INPUTS = 1;
    __device__ static double first(const double* x) { return x[0]; }
    __device__ static double next(const double* x, const double*) { return x[0]; }
};
struct BalanceTerm {
    static const int INPUTS = 2;
    __device__ static double first(const double* x) { return x[1]; }
    __device__ static double next(const double* x, const double* before) {
        return x[0] < before[0] ? -x[1] : x[0] > before[0] ? x[1] : 0.0;
    }
};
struct TrendTerm {
    static const int INPUTS = 2;
    __device__ static double first(const double*) { return 0.0; }
    __device__ static double next(const double* x, const double* before) {
        return before[0] == 0.0 ? 0.0 : x[1] * ((x[0] - before[0]) / before[0]);
    }
};
struct FlowTerm {
    static const int INPUTS = 4;
    __device__ static double first(const double* x) { return flow(x); }
    __device__ static double next(const double* x, const double*) { return flow(x); }
};

__device__ inline Running<PlainTerm> cumsum() { return Running<PlainTerm>(); }
__device__ inline Running<BalanceTerm> obv() { return Running<BalanceTerm>(); }
__device__ inline Running<TrendTerm> vpt() { return Running<TrendTerm>(); }
__device__ inline Running<FlowTerm> ad() { return Running<FlowTerm>(); }
