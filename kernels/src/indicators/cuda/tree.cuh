// Windows by doubling: the state of a run of rows from the states of its two parts, as `window/tree.rs`.
//
// A statistic has K numbers as its state and O results: `leaf` of one row, `factors` for parts of so many rows whose first
// rows are DISTANCE apart, `join`, and `result`.

// Argument `N` of several: its value `back` rows before, or the variable itself.
template <int N>
struct Argument {
    template <class First, class... Rest>
    __device__ static double read(int back, First&, Rest&... rest) { return Argument<N - 1>::read(back, rest...); }
    template <class First, class... Rest>
    __device__ static double& variable(First&, Rest&... rest) { return Argument<N - 1>::variable(rest...); }
};
template <>
struct Argument<0> {
    template <class First, class... Rest>
    __device__ static double read(int back, First& first, Rest&...) { return first[-back]; }
    template <class... Rest>
    __device__ static double& variable(double& first, Rest&...) { return first; }
};

// Arguments FROM .. FROM + N, `back` rows before.
template <int FROM, int N, int K = 0, class... Arguments>
__device__ inline void read_all(double* to, int back, Arguments&... arguments) {
    if constexpr (K < N) {
        to[K] = Argument<FROM + K>::read(back, arguments...);
        read_all<FROM, N, K + 1>(to, back, arguments...);
    }
}

template <int FROM, int N, int K = 0, class... Arguments>
__device__ inline void write_all(const double* from, Arguments&... arguments) {
    if constexpr (K < N) {
        Argument<FROM + K>::variable(arguments...) = from[K];
        write_all<FROM, N, K + 1>(from, arguments...);
    }
}

// The state of two parts. Arguments: INPUTS series, then the older state and the newer one, unless they are single rows. The
// older part ends SHIFT rows before the newer; the first rows of the parts are DISTANCE apart.
template <class S, int INPUTS, int OLDER, int NEWER, int DISTANCE, int SHIFT, bool IS_LEAF_OLDER, bool IS_LEAF_NEWER,
          class... Arguments>
__device__ inline void join_states(double* joined, Arguments&... arguments) {
    double older[S::K], newer[S::K], factors[3], apart[2] = {0.0, 0.0}, x[2], before[2];
    if constexpr (INPUTS > 0) {
        read_all<0, INPUTS>(x, NEWER - 1, arguments...);
        read_all<0, INPUTS>(before, NEWER - 1 + DISTANCE, arguments...);
        apart[0] = x[0] - before[0];
        apart[1] = x[INPUTS - 1] - before[INPUTS - 1];
    }
    if constexpr (IS_LEAF_OLDER) {
        read_all<0, INPUTS>(before, SHIFT, arguments...);
        S::leaf(before[0], before[INPUTS - 1], older);
    } else {
        read_all<INPUTS, S::K>(older, SHIFT, arguments...);
    }
    if constexpr (IS_LEAF_NEWER) {
        read_all<0, INPUTS>(x, 0, arguments...);
        S::leaf(x[0], x[INPUTS - 1], newer);
    } else {
        read_all<INPUTS + (IS_LEAF_OLDER ? 0 : S::K), S::K>(newer, 0, arguments...);
    }
    S::factors(OLDER, NEWER, DISTANCE, factors);
    S::join(older, newer, apart, factors, joined);
}

// Arguments: as above, then the state of both.
template <class S, int INPUTS, int OLDER, int NEWER, int DISTANCE, int SHIFT, bool IS_LEAF_OLDER, bool IS_LEAF_NEWER,
          class... Arguments>
__device__ inline void join(Arguments&&... arguments) {
    double joined[S::K];
    join_states<S, INPUTS, OLDER, NEWER, DISTANCE, SHIFT, IS_LEAF_OLDER, IS_LEAF_NEWER>(joined, arguments...);
    write_all<INPUTS + (IS_LEAF_OLDER ? 0 : S::K) + (IS_LEAF_NEWER ? 0 : S::K), S::K>(joined, arguments...);
}

// The same for a state of one number.
template <class S, int INPUTS, int OLDER, int NEWER, int DISTANCE, int SHIFT, bool IS_LEAF_OLDER, bool IS_LEAF_NEWER,
          class... Arguments>
__device__ inline double join_one(Arguments&&... arguments) {
    double joined[1];
    join_states<S, INPUTS, OLDER, NEWER, DISTANCE, SHIFT, IS_LEAF_OLDER, IS_LEAF_NEWER>(joined, arguments...);
    return joined[0];
}

// A window of one row. Arguments: inputs, state.
template <class S, int INPUTS, class... Arguments>
__device__ inline void leaf(Arguments&&... arguments) {
    double x[2], state[S::K];
    read_all<0, INPUTS>(x, 0, arguments...);
    S::leaf(x[0], x[INPUTS - 1], state);
    write_all<INPUTS, S::K>(state, arguments...);
}

template <class S, int INPUTS, class... Arguments>
__device__ inline double leaf_one(Arguments&&... arguments) {
    double x[2], state[1];
    read_all<0, INPUTS>(x, 0, arguments...);
    S::leaf(x[0], x[INPUTS - 1], state);
    return state[0];
}

// Arguments: the first input, state, results.
template <class S, int ROWS, class... Arguments>
__device__ inline void results(Arguments&&... arguments) {
    double state[S::K], out[S::O], first, last;
    read_all<0, 1>(&first, ROWS - 1, arguments...);
    read_all<0, 1>(&last, 0, arguments...);
    read_all<1, S::K>(state, 0, arguments...);
    S::result(state, first, last, ROWS, out);
    write_all<1 + S::K, S::O>(out, arguments...);
}

// The only one.
template <class S, int ROWS, class... Arguments>
__device__ inline double result(Arguments&&... arguments) {
    double state[S::K], out[1], first, last;
    read_all<0, 1>(&first, ROWS - 1, arguments...);
    read_all<0, 1>(&last, 0, arguments...);
    read_all<1, S::K>(state, 0, arguments...);
    S::result(state, first, last, ROWS, out);
    return out[0];
}

struct Sum {
    static const int K = 1, O = 1;
    __device__ static void factors(int, int, int, double*) {}
    __device__ static void join(const double* older, const double* newer, const double*, const double*, double* out) {
        out[0] = newer[0] + older[0];
    }
};

struct Mean {
    static const int K = 1, O = 1;
    __device__ static void factors(int older, int newer, int, double* f) { f[0] = (double)newer / (double)(older + newer); }
    __device__ static void join(const double* older, const double* newer, const double*, const double* f, double* out) {
        out[0] = fma(newer[0] - older[0], f[0], older[0]);
    }
};

// The sum, and the sum with weights 1, 2 ...; result: the weighted mean.
struct Weighted {
    static const int K = 2, O = 1;
    __device__ static void leaf(double x, double, double* s) { s[0] = x; s[1] = x; }
    __device__ static void factors(int older, int, int, double* f) { f[0] = (double)older; }
    __device__ static void join(const double* older, const double* newer, const double*, const double* f, double* out) {
        out[0] = newer[0] + older[0];
        out[1] = fma(newer[0], f[0], newer[1] + older[1]);
    }
    __device__ static void result(const double* s, double, double, int rows, double* out) {
        const double n = (double)rows;
        out[0] = s[1] * (2.0 / (n * (n + 1.0)));
    }
};

struct Largest {
    static const int K = 1, O = 1;
    __device__ static void factors(int, int, int, double*) {}
    __device__ static void join(const double* older, const double* newer, const double*, const double*, double* out) {
        out[0] = larger(newer[0], older[0]);
    }
};

struct Smallest {
    static const int K = 1, O = 1;
    __device__ static void factors(int, int, int, double*) {}
    __device__ static void join(const double* older, const double* newer, const double*, const double*, double* out) {
        out[0] = smaller(newer[0], older[0]);
    }
};

// The mean less the first row, and the sum of squared deviations from the mean; results: mean, that sum, the last row's own.
struct Spread {
    static const int K = 2, O = 3;
    __device__ static void leaf(double x, double, double* s) { s[0] = x - x; s[1] = 0.0; }
    __device__ static void factors(int older, int newer, int, double* f) {
        const double share = (double)newer / ((double)older + (double)newer);
        f[0] = share;
        f[1] = (double)older * share;
    }
    __device__ static void join(const double* older, const double* newer, const double* apart, const double* f, double* out) {
        const double step = apart[0] + (newer[0] - older[0]);
        out[0] = fma(step, f[0], older[0]);
        out[1] = fma(step * step, f[1], older[1] + newer[1]);
    }
    __device__ static void result(const double* s, double first, double last, int, double* out) {
        out[0] = first + s[0];
        out[1] = s[1];
        out[2] = last - first - s[0];
    }
};

// The same, with the sums of third and fourth powers; results: the sums.
struct Shape {
    static const int K = 4, O = 3;
    __device__ static void leaf(double x, double, double* s) { s[0] = x - x; s[1] = s[2] = s[3] = 0.0; }
    __device__ static void factors(int older, int newer, int, double* f) {
        const double a = (double)older, b = (double)newer, share = b / (a + b);
        f[0] = share;
        f[1] = a * share;
        f[2] = a / (a + b);
    }
    __device__ static void join(const double* older, const double* newer, const double* apart, const double* f, double* out) {
        const double share = f[0], between = f[1], older_share = f[2];
        const double m2 = older[1], m3 = older[2], m4 = older[3], n2 = newer[1], n3 = newer[2], n4 = newer[3];
        const double step = apart[0] + (newer[0] - older[0]);
        const double squared = step * step * between;
        const double cross = older_share * share;
        const double fourth = older_share * older_share + share * share - cross;
        const double second = m2 * (share * share) + n2 * (older_share * older_share);
        const double third = n3 * older_share - m3 * share;
        out[0] = fma(step, share, older[0]);
        out[1] = squared + (m2 + n2);
        out[2] = fma(step, fma(3.0, n2 * older_share - m2 * share, squared * (older_share - share)), m3 + n3);
        out[3] = fma(step, fma(step, fma(squared, fourth, 6.0 * second), 4.0 * third), m4 + n4);
    }
    __device__ static void result(const double* s, double, double, int, double* out) {
        out[0] = s[1];
        out[1] = s[2];
        out[2] = s[3];
    }
};

// The mean less the first row.
struct AnchoredMean {
    static const int K = 1, O = 1;
    __device__ static void leaf(double x, double, double* s) { s[0] = x - x; }
    __device__ static void factors(int older, int newer, int, double* f) { f[0] = (double)newer / (double)(older + newer); }
    __device__ static void join(const double* older, const double* newer, const double* apart, const double* f, double* out) {
        out[0] = fma(apart[0] + (newer[0] - older[0]), f[0], older[0]);
    }
};

// The means of x and y less their first rows, and the sums of squares and products of deviations; results: the sums.
struct Together {
    static const int K = 5, O = 3;
    __device__ static void leaf(double x, double y, double* s) {
        s[0] = s[1] = (x - x) + (y - y);
        s[2] = s[3] = s[4] = 0.0;
    }
    __device__ static void factors(int older, int newer, int distance, double* f) { Spread::factors(older, newer, distance, f); }
    __device__ static void join(const double* older, const double* newer, const double* apart, const double* f, double* out) {
        const double share = f[0], between = f[1];
        const double step_x = apart[0] + (newer[0] - older[0]), step_y = apart[1] + (newer[1] - older[1]);
        const double weighted = step_x * between;
        out[0] = fma(step_x, share, older[0]);
        out[1] = fma(step_y, share, older[1]);
        out[2] = fma(weighted, step_x, older[2] + newer[2]);
        out[3] = fma(step_y * between, step_y, older[3] + newer[3]);
        out[4] = fma(weighted, step_y, older[4] + newer[4]);
    }
    __device__ static void result(const double* s, double, double, int, double* out) {
        out[0] = s[2];
        out[1] = s[3];
        out[2] = s[4];
    }
};

// The mean less the first row, and the sum of products of deviations of x and of its row number; results: mean and slope.
struct Line {
    static const int K = 2, O = 2;
    __device__ static void leaf(double x, double, double* s) { s[0] = x - x; s[1] = 0.0; }
    __device__ static void factors(int older, int newer, int, double* f) {
        const double a = (double)older, b = (double)newer;
        f[0] = b / (a + b);
        f[1] = 0.5 * a * b;
    }
    __device__ static void join(const double* older, const double* newer, const double* apart, const double* f, double* out) {
        const double step = apart[0] + (newer[0] - older[0]);
        out[0] = fma(step, f[0], older[0]);
        out[1] = fma(step, f[1], older[1] + newer[1]);
    }
    __device__ static void result(const double* s, double first, double, int rows, double* out) {
        const double n = (double)rows;
        out[0] = first + s[0];
        out[1] = s[1] * (1.0 / (n * (n * n - 1.0) / 12.0));
    }
};

// The place of the newest of the largest (or smallest) values; result: rows since.
template <bool IS_LARGEST>
struct PlaceOfExtreme {
    static const int K = 2, O = 1;
    __device__ static void leaf(double x, double, double* s) { s[0] = x; s[1] = 0.0; }
    __device__ static void factors(int, int, int distance, double* f) { f[0] = (double)distance; }
    __device__ static void join(const double* older, const double* newer, const double*, const double* f, double* out) {
        const bool is_newer = IS_LARGEST ? newer[0] >= older[0] : older[0] >= newer[0];
        out[0] = IS_LARGEST ? larger(newer[0], older[0]) : smaller(newer[0], older[0]);
        out[1] = is_newer ? newer[1] + f[0] : older[1];
    }
    __device__ static void result(const double* s, double, double, int rows, double* out) {
        out[0] = is_nan(s[0]) ? s[0] : (double)rows - 1.0 - s[1];
    }
};
typedef PlaceOfExtreme<true> PlaceOfLargest;
typedef PlaceOfExtreme<false> PlaceOfSmallest;

// The last row less the mean, and the mean absolute deviation from the mean; inputs: x, the mean less the first row.
template <u64 N, class X, class M>
__device__ inline void deviation(X x, M in_mean, double& distance, double& deviation) {
    const int n = (int)N;
    const double first = x[1 - n], mean = in_mean[0];
    double sums[4] = {0.0, 0.0, 0.0, 0.0};
    for (int k = 0; k < n; k++) sums[k % 4] += fabs(x[k + 1 - n] - first - mean);
    deviation = (sums[0] + sums[1] + (sums[2] + sums[3])) * (1.0 / (double)n);
    distance = x[0] - first - mean;
}
