// Candles, candle patterns, market structure, sessions and the calendar: twins of `candles.rs`, `patterns.rs`,
// `structure.rs`, `sessions.rs` and `calendar.rs`.

__device__ inline double share_of_range(double part, double range, double without_range) {
    return is_nan(part) ? part : range == 0.0 ? without_range : part / range;
}

__device__ inline double flag_unless(bool holds, bool is_missing) {
    return is_missing ? nan_value() : holds ? 1.0 : 0.0;
}

// A function of open, high, low and close of the present bar.
#define OF_BAR(name, expression) \
    template <class O, class H, class L, class C> \
    __device__ inline double name(O in_o, H in_h, L in_l, C in_c) { \
        const double o = in_o[0], h = in_h[0], l = in_l[0], c = in_c[0]; \
        (void)o; (void)h; (void)l; (void)c; \
        return expression; }
// The same with the high and low of the bar before.
#define OF_BARS(name, expression) \
    template <class O, class H, class L, class C> \
    __device__ inline double name(O, H in_h, L in_l, C) { \
        const double h = in_h[0], l = in_l[0], h1 = in_h[-1], l1 = in_l[-1]; \
        (void)h; (void)l; (void)h1; (void)l1; \
        return expression; }

OF_BAR(body_ratio, share_of_range(fabs(c - o), h - l, 0.0))
OF_BAR(upper_shadow_ratio, share_of_range(h - larger(o, c), h - l, 0.0))
OF_BAR(lower_shadow_ratio, share_of_range(smaller(o, c) - l, h - l, 0.0))
OF_BAR(position_in_range, share_of_range(c - l, h - l, 0.5))
OF_BAR(is_doji, flag(fabs(c - o) < 0.1 * (h - l), fabs(c - o), 0.1 * (h - l)))
OF_BAR(candle_dir, flag(c > o, c, o))
OF_BARS(gap_up, flag(l > h1, l, h1))
OF_BARS(gap_down, flag(h < l1, h, l1))
OF_BAR(body_pct, fabs(c - o) / c)
OF_BAR(upper_shadow_pct, (h - larger(o, c)) / c)
OF_BAR(lower_shadow_pct, (smaller(o, c) - l) / c)
OF_BAR(hl_ratio, (h - l) / c)
OF_BAR(co_ratio, (c - o) / o)

template <class O, class H, class L, class C>
__device__ inline void fvg(O, H high, L low, C close, double& bull, double& bear, double& bull_pct, double& bear_pct) {
    const double above = low[0] - high[-2], below = low[-2] - high[0];
    bull = flag_unless(low[0] > high[-2], is_nan(above));
    bear = flag_unless(high[0] < low[-2], is_nan(below));
    bull_pct = larger(above, 0.0) / close[0];
    bear_pct = larger(below, 0.0) / close[0];
}

template <class O, class C>
__device__ inline double body_size(O o, C c) { return fabs(c[0] - o[0]); }

template <class H, class L>
__device__ inline double bar_range(H h, L l) { return h[0] - l[0]; }

template <u64 ROWS, class X>
__device__ inline double sum_over_rows_before(X sum) { return sum[-1] / (double)ROWS; }

__device__ inline double body_of(double o, double c) { return fabs(c - o); }

// Candles by age, and the means that they are measured with.
struct Candles {
    double o[4], h[4], l[4], c[4], m[4], r[4], near[4];
    __device__ bool white(int k) const { return c[k] >= o[k]; }
    __device__ bool black(int k) const { return c[k] < o[k]; }
    __device__ double body(int k) const { return fabs(c[k] - o[k]); }
    __device__ double top(int k) const { return larger(o[k], c[k]); }
    __device__ double bottom(int k) const { return smaller(o[k], c[k]); }
    __device__ double mark(bool is_there, double mark) const {
        return is_nan(o[0]) || is_nan(h[0]) || is_nan(l[0]) || is_nan(c[0]) ? nan_value() : is_there ? mark : 0.0;
    }
};

#define PATTERN(name, back, ...) \
    template <class O, class H, class L, class C, class M, class R, class N> \
    __device__ inline double name(O o, H h, L l, C c, M m, R r, N near) { \
        Candles k; \
        for (int i = 0; i <= back; i++) { \
            k.o[i] = o[-i]; k.h[i] = h[-i]; k.l[i] = l[-i]; k.c[i] = c[-i]; \
            k.m[i] = m[-i]; k.r[i] = r[-i]; k.near[i] = near[-i]; \
        } \
        __VA_ARGS__ \
    }

template <class O, class H, class L, class C, class R>
__device__ inline double cdl_doji(O o, H h, L l, C c, R range) {
    const bool is_missing = is_nan(o[0]) || is_nan(h[0]) || is_nan(l[0]) || is_nan(c[0]);
    return is_missing ? nan_value() : fabs(c[0] - o[0]) <= 0.1 * range[0] ? 100.0 : 0.0;
}
// Whether the candle is a shooting star but for its lower shadow.
template <class O, class H, class L, class C, class M>
__device__ inline double star(O o, H h, L l, C c, M mean) {
    if (is_nan(o[0]) || is_nan(h[0]) || is_nan(l[0]) || is_nan(c[0])) return nan_value();
    const double body = fabs(c[0] - o[0]);
    const bool is_there = body < mean[0] && h[0] - larger(o[0], c[0]) > body
        && smaller(o[0], c[0]) > larger(o[-1], c[-1]) && !is_nan(mean[-1]);
    return is_there ? 1.0 : 0.0;
}
template <class O, class H, class L, class C, class S, class R>
__device__ inline double cdl_shootingstar(O o, H, L l, C c, S is_star, R range) {
    if (is_nan(is_star[0])) return nan_value();
    return is_star[0] == 1.0 && smaller(o[0], c[0]) - l[0] < 0.1 * range[0] ? -100.0 : 0.0;
}
template <class O, class H, class L, class C>
__device__ inline double cdl_engulfing(O o, H h, L l, C c) {
    const bool is_white = c[0] >= o[0], is_black = c[0] < o[0], was_white = c[-1] >= o[-1], was_black = c[-1] < o[-1];
    const bool rises = is_white && was_black && ((c[0] >= o[-1] && o[0] < c[-1]) || (c[0] > o[-1] && o[0] <= c[-1]));
    const bool falls = is_black && was_white && ((o[0] >= c[-1] && c[0] < o[-1]) || (o[0] > c[-1] && c[0] <= o[-1]));
    const bool is_there = (rises || falls) && !is_nan(c[-2]);
    const bool touches = o[0] == c[-1] || c[0] == o[-1];
    const double size = touches ? 80.0 : 100.0;
    const bool is_missing = is_nan(o[0]) || is_nan(h[0]) || is_nan(l[0]) || is_nan(c[0]);
    return is_missing ? nan_value() : !is_there ? 0.0 : rises ? size : -size;
}
PATTERN(cdl_hammer, 1, {
    const bool is_there = k.body(0) < k.m[0] && k.bottom(0) - k.l[0] > k.body(0)
        && k.h[0] - k.top(0) < 0.1 * k.r[0] && k.bottom(0) <= k.l[1] + 0.2 * k.near[1] && !is_nan(k.m[1]);
    return k.mark(is_there, 100.0);
})
PATTERN(cdl_hangingman, 1, {
    const bool is_there = k.body(0) < k.m[0] && k.bottom(0) - k.l[0] > k.body(0)
        && k.h[0] - k.top(0) < 0.1 * k.r[0] && k.bottom(0) >= k.h[1] - 0.2 * k.near[1] && !is_nan(k.m[1]);
    return k.mark(is_there, -100.0);
})
PATTERN(cdl_harami, 1, {
    const bool is_there = k.body(1) > k.m[1] && k.body(0) <= k.m[0] && k.top(0) <= k.top(1) && k.bottom(0) >= k.bottom(1);
    const double size = k.top(0) < k.top(1) && k.bottom(0) > k.bottom(1) ? 100.0 : 80.0;
    return k.mark(is_there, k.white(1) ? -size : size);
})
PATTERN(cdl_morningstar, 2, {
    const bool is_there = k.body(2) > k.m[2] && k.black(2) && k.body(1) <= k.m[1] && k.top(1) < k.bottom(2)
        && k.body(0) > k.m[0] && k.white(0) && k.c[0] > k.c[2] + k.body(2) * 0.3;
    return k.mark(is_there, 100.0);
})
PATTERN(cdl_eveningstar, 2, {
    const bool is_there = k.body(2) > k.m[2] && k.white(2) && k.body(1) <= k.m[1] && k.bottom(1) > k.top(2)
        && k.body(0) > k.m[0] && k.black(0) && k.c[0] < k.c[2] - k.body(2) * 0.3;
    return k.mark(is_there, -100.0);
})
PATTERN(cdl_3whitesoldiers, 2, {
    const bool is_there = k.white(2) && k.h[2] - k.c[2] < 0.1 * k.r[2] && k.white(1) && k.h[1] - k.c[1] < 0.1 * k.r[1]
        && k.white(0) && k.h[0] - k.c[0] < 0.1 * k.r[0] && k.c[0] > k.c[1] && k.c[1] > k.c[2] && k.o[1] > k.o[2]
        && k.o[1] <= k.c[2] + 0.2 * k.near[2] && k.o[0] > k.o[1] && k.o[0] <= k.c[1] + 0.2 * k.near[1]
        && k.body(1) > k.body(2) - 0.6 * k.near[2] && k.body(0) > k.body(1) - 0.6 * k.near[1] && k.body(0) > k.m[0];
    return k.mark(is_there, 100.0);
})
PATTERN(cdl_3blackcrows, 3, {
    const bool is_there = k.white(3) && k.black(2) && k.c[2] - k.l[2] < 0.1 * k.r[2] && k.black(1)
        && k.c[1] - k.l[1] < 0.1 * k.r[1] && k.black(0) && k.c[0] - k.l[0] < 0.1 * k.r[0] && k.o[1] < k.o[2]
        && k.o[1] > k.c[2] && k.o[0] < k.o[1] && k.o[0] > k.c[1] && k.h[3] > k.c[2] && k.c[2] > k.c[1] && k.c[1] > k.c[0]
        && !is_nan(k.r[3]);
    return k.mark(is_there, -100.0);
})
PATTERN(cdl_piercing, 1, {
    const bool is_there = k.black(1) && k.body(1) > k.m[1] && k.white(0) && k.body(0) > k.m[0] && k.o[0] < k.l[1]
        && k.c[0] < k.o[1] && k.c[0] > k.c[1] + k.body(1) * 0.5;
    return k.mark(is_there, 100.0);
})
PATTERN(cdl_darkcloudcover, 1, {
    const bool is_there = k.white(1) && k.body(1) > k.m[1] && k.black(0) && k.o[0] > k.h[1] && k.c[0] > k.o[1]
        && k.c[0] < k.c[1] - k.body(1) * 0.5;
    return k.mark(is_there, -100.0);
})

// Stands for "no pivot was confirmed here" where the price of one would be.
__device__ inline double no_pivot() { return number(0x7ff0000000000000ull); }

template <bool IS_HIGH, class X>
__device__ inline void pivot(X x, int left, int right, double& is_pivot, double& price) {
    double around = x[-right - 1];
    for (int k = 2; k <= left; k++) around = IS_HIGH ? larger(around, x[-right - k]) : smaller(around, x[-right - k]);
    for (int k = 0; k < right; k++) around = IS_HIGH ? larger(around, x[-k]) : smaller(around, x[-k]);
    const double here = x[-right];
    is_pivot = flag(IS_HIGH ? here > around : here < around, here, around);
    price = is_nan(is_pivot) ? is_pivot : is_pivot == 1.0 ? here : no_pivot();
}

template <u64 LEFT, u64 RIGHT, class H, class L>
__device__ inline void swing(H high, L low, double& is_high, double& is_low, double& pivot_high, double& pivot_low) {
    pivot<true>(high, LEFT, RIGHT, is_high, pivot_high);
    pivot<false>(low, LEFT, RIGHT, is_low, pivot_low);
}

template <class H, class L, class C, class X, class Y>
__device__ inline void sweep(H in_high, L in_low, C in_c, X in_x, Y in_y, double& bear, double& bull) {
    const double high = in_high[0], low = in_low[0], c = in_c[0], x = in_x[0], y = in_y[0];
    bear = flag_unless(high > x && c < x, is_nan(high) || is_nan(c) || is_nan(x));
    bull = flag_unless(low < y && c > y, is_nan(low) || is_nan(c) || is_nan(y));
}

template <class C, class X, class Y>
__device__ inline void bos(C c, X high, Y low, double& bull, double& bear) {
    bull = flag(c[0] > high[0], c[0], high[0]);
    bear = flag(c[0] < low[0], c[0], low[0]);
}

template <class C, class X, class Y>
__device__ inline void breakout(C c, X highest, Y lowest, double& up, double& down) {
    up = flag(c[0] > highest[-1], c[0], highest[-1]);
    down = flag(c[0] < lowest[-1], c[0], lowest[-1]);
}

template <class C, class X, class Y>
__device__ inline double ob_dist(C c, X highest, Y lowest) {
    return smaller((highest[0] - c[0]) / c[0], (c[0] - lowest[0]) / c[0]);
}

template <class X, class Y>
__device__ inline double crossup(X x, Y y) {
    return flag_unless(x[0] > y[0] && x[-1] <= y[-1], is_nan(x[0]) || is_nan(y[0]) || is_nan(x[-1]) || is_nan(y[-1]));
}

// The price of the last confirmed pivot of each side.
struct LastPivot {
    static const int INPUTS = 2, OUTPUTS = 2, WORDS = 4;
    i64 lookback, ages[2];
    double prices[2];
    __device__ explicit LastPivot(i64 rows) : lookback(rows) {
        ages[0] = ages[1] = 0;
        prices[0] = prices[1] = nan_value();
    }
    __device__ void step(const double* x, double* out) {
        for (int k = 0; k < 2; k++) {
            const bool is_kept = x[k] == no_pivot();
            if (!is_kept) prices[k] = x[k];
            if (lookback > 0) {
                ages[k] = is_kept ? ages[k] + 1 : 0;
                if (ages[k] > lookback) prices[k] = nan_value();
            }
            out[k] = prices[k];
        }
    }
    __device__ void put(double* words) const {
        for (int k = 0; k < 2; k++) {
            words[k] = prices[k];
            words[2 + k] = (double)ages[k];
        }
    }
    __device__ void take(const double* words) {
        for (int k = 0; k < 2; k++) {
            prices[k] = words[k];
            ages[k] = (i64)words[2 + k];
        }
    }
};
template <u64 LOOKBACK>
__device__ inline LastPivot last_pivot() { return LastPivot(LOOKBACK); }

struct ChangeOfCharacter {
    static const int INPUTS = 5, OUTPUTS = 1, WORDS = 2;
    i64 lookback, age;
    double direction;
    __device__ explicit ChangeOfCharacter(i64 rows) : lookback(rows), age(0), direction(0.0) {}
    __device__ void step(const double* x, double* out) {
        const double high = x[0], low = x[1], close = x[2];
        if (lookback > 0) {
            age++;
            if (age > lookback) direction = 0.0;
        }
        const bool is_bullish = close > x[3], is_bearish = !is_bullish && close < x[4];
        const double broken = is_bullish ? 1.0 : is_bearish ? -1.0 : 0.0;
        const double change = direction * broken < 0.0 ? broken : 0.0;
        if (is_bullish || is_bearish) {
            age = 0;
            direction = broken;
        }
        const bool is_missing = is_nan(close) || is_nan(high) || is_nan(low);
        out[0] = is_missing ? nan_value() : change;
        if (is_missing) direction = 0.0;
    }
    __device__ void put(double* words) const {
        words[0] = direction;
        words[1] = (double)age;
    }
    __device__ void take(const double* words) {
        direction = words[0];
        age = (i64)words[1];
    }
};
template <u64 LOOKBACK>
__device__ inline ChangeOfCharacter choch() { return ChangeOfCharacter(LOOKBACK); }

// Inputs: day, high, low, close, volume.
struct VwapOfDay {
    static const int INPUTS = 5, OUTPUTS = 1, WORDS = 3;
    double day, turnover, volume;
    __device__ VwapOfDay() : day(nan_value()), turnover(0.0), volume(0.0) {}
    __device__ void step(const double* x, double* out) {
        const double typical = (x[1] + x[2] + x[3]) / 3.0;
        const bool is_same_day = x[0] == day;
        turnover = (is_same_day ? turnover : 0.0) + typical * x[4];
        volume = (is_same_day ? volume : 0.0) + x[4];
        day = x[0];
        out[0] = turnover / volume;
    }
    __device__ void put(double* words) const { words[0] = day; words[1] = turnover; words[2] = volume; }
    __device__ void take(const double* words) { day = words[0]; turnover = words[1]; volume = words[2]; }
};
__device__ inline VwapOfDay vwap_day() { return VwapOfDay(); }

// Inputs: day, high, low, close; outputs: P, R1, S1, R2, S2.
struct Pivots {
    static const int INPUTS = 4, OUTPUTS = 5, WORDS = 9;
    double day, highest, lowest, last, levels[5];
    __device__ Pivots() : day(nan_value()), highest(nan_value()), lowest(nan_value()), last(nan_value()) {
        for (int k = 0; k < 5; k++) levels[k] = nan_value();
    }
    __device__ void step(const double* x, double* out) {
        if (x[0] != day) {
            const double middle = (highest + lowest + last) / 3.0;
            levels[0] = middle;
            levels[1] = 2.0 * middle - lowest;
            levels[2] = 2.0 * middle - highest;
            levels[3] = middle + (highest - lowest);
            levels[4] = middle - (highest - lowest);
            day = x[0];
            highest = number(0xfff0000000000000ull);
            lowest = number(0x7ff0000000000000ull);
            last = nan_value();
        }
        for (int k = 0; k < 5; k++) out[k] = levels[k];
        highest = larger(highest, x[1]);
        lowest = smaller(lowest, x[2]);
        last = x[3];
        if (is_nan(x[1]) || is_nan(x[2]) || is_nan(x[3])) highest = last = nan_value();
    }
    __device__ void put(double* words) const {
        words[0] = day;
        words[1] = highest;
        words[2] = lowest;
        words[3] = last;
        for (int k = 0; k < 5; k++) words[4 + k] = levels[k];
    }
    __device__ void take(const double* words) {
        day = words[0];
        highest = words[1];
        lowest = words[2];
        last = words[3];
        for (int k = 0; k < 5; k++) levels[k] = words[4 + k];
    }
};
__device__ inline Pivots pivots() { return Pivots(); }

// Sine and cosine of an angle in turns from 0 to 1, 1 not included.
__device__ inline void sine_and_cosine(double turns, double& sine_out, double& cosine_out) {
    const double quarter = floor(fma(4.0, turns, 0.5));
    const double x = fma(-0.25, quarter, turns) * 6.28318530717958647692528676655900577;
    const double z = x * x;
    double tail = 0.0;
    const double SINE[6] = {-1.6666666666666632e-1, 8.33333333332249e-3, -1.984126982985795e-4,
                            2.7557313707070068e-6, -2.5050760253406863e-8, 1.58969099521155e-10};
    const double COSINE[6] = {4.16666666666666e-2, -1.388888888887411e-3, 2.480158728947673e-5,
                              -2.7557314351390663e-7, 2.087572321298175e-9, -1.1359647557788195e-11};
    for (int k = 5; k >= 1; k--) tail = fma(tail, z, SINE[k]);
    const double sine = fma(x * z, fma(z, tail, SINE[0]), x);
    tail = 0.0;
    for (int k = 5; k >= 0; k--) tail = fma(tail, z, COSINE[k]);
    const double half = 0.5 * z, near = 1.0 - 0.5 * z;
    const double cosine = near + fma(z * z, tail, (1.0 - near) - half);
    const bool is_swapped = quarter == 1.0 || quarter == 3.0;
    const double s = is_swapped ? cosine : sine, c = is_swapped ? sine : cosine;
    sine_out = quarter == 2.0 || quarter == 3.0 ? 0.0 - s : s;
    cosine_out = quarter == 1.0 || quarter == 2.0 ? 0.0 - c : c;
}

template <class X>
__device__ inline void time_of_day(X ns, double& sine, double& cosine) {
    sine_and_cosine(ns[0] / 86400e9, sine, cosine);
}

template <class X>
__device__ inline void day_of_week(X day, double& sine, double& cosine) {
    const double since_monday = day[0] + 3.0;
    sine_and_cosine(fma(-7.0, floor(since_monday / 7.0), since_monday) / 7.0, sine, cosine);
}

// Hinnant (2013), low-level date algorithms, `civil_from_days`.
template <class X>
__device__ inline void month_of_year(X day, double& sine, double& cosine) {
    const i64 since_march_0 = (i64)day[0] + 719468;
    const i64 of_era = since_march_0 - floor_divided(since_march_0, 146097) * 146097;
    const i64 year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    const i64 of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    const i64 since_march = (5 * of_year + 2) / 153;
    const i64 month = since_march < 10 ? since_march + 3 : since_march - 9;
    sine_and_cosine((double)(month - 1) / 12.0, sine, cosine);
}

// Between the recurrences: twins of the windows of `recurrence/*.rs`. The last word is the lookback.

template <u64 LAG, class X>
__device__ inline double mean_of_two(X x) { return 0.5 * (x[0] + x[-(int)LAG]); }

template <u64 LAG, class C, class V>
__device__ inline double force(C close, V volume) { return (close[0] - close[-(int)LAG]) * volume[0]; }

template <u64 WIDTH, u64 LAG, class M, class R>
__device__ inline void channel(M middle, R range, double& upper, double& lower, double& relative) {
    const double reach = number(WIDTH) * range[0];
    upper = middle[0] + reach;
    lower = middle[0] - reach;
    relative = 2.0 * reach / middle[0];
}

// What is left of the distance to Kaufman's mean after a row.
template <u64 PERIOD, u64 FAST, u64 SLOW, class X>
__device__ inline double kama_rest(X x) {
    const int n = (int)PERIOD;
    // Sums of 1, 2, 4 ... changes; the lowest binary digit of the period is the newest part, and each adds to those before.
    double total = 0.0;
    int done = 0;
    for (int length = 1; done < n; length *= 2) {
        if (!(n & length)) continue;
        double waiting[16];
        double sum = 0.0;
        for (int k = 0; k < length; k++) {
            // From the oldest change of the part to the newest.
            const int back = done + length - 1 - k;
            sum = fabs(x[-back] - x[-back - 1]);
            int place = 0;
            for (int bits = k; bits & 1; bits >>= 1, place++) sum += waiting[place];
            waiting[place] = sum;
        }
        total += sum;
        done += length;
    }
    double share = fabs(x[0] - x[-n]) / total;
    share = total == 0.0 || share > 1.0 ? 1.0 : share;
    const double fast = 2.0 / (number(FAST) + 1.0), slow = 2.0 / (number(SLOW) + 1.0);
    const double c = fma(share, fast - slow, slow);
    return fma(-c, c, 1.0);
}

// The place of a value between the lowest and the highest of N, in percent, and its mean over MEAN rows.
template <u64 N, u64 MEAN, class X>
__device__ inline void place(X x, double& out, double& mean) {
    double sum = 0.0, newest = 0.0;
    for (int row = (int)MEAN - 1; row >= 0; row--) {
        double highest = x[-row], lowest = x[-row];
        for (int k = 1; k < (int)N; k++) {
            highest = larger(highest, x[-row - k]);
            lowest = smaller(lowest, x[-row - k]);
        }
        newest = percent(x[-row] - lowest, highest - lowest);
        sum += newest;
    }
    mean = sum / (double)MEAN;
    out = is_nan(mean) ? nan_value() : newest;
}
