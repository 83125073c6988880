// Order statistics, ranks, entropies, weighted sums, the Hurst exponent, the volume profile and option sensitivities: twins
// of `order.rs`, `rank.rs`, `entropy.rs`, `fractional.rs`, `hurst.rs`, `profile.rs`, `spectral.rs` and `greeks.rs`. One thread
// computes a row.

template <int N, class X>
__device__ inline bool is_torn(X x) {
    bool is = false;
    for (int k = 0; k < N; k++) is |= is_nan(x[-k]);
    return is;
}

// Where a quantile lies among N ascending values.
struct Position {
    int lower, upper;
    double share;
    __device__ Position(double q, int n) {
        const double position = q * (double)(n - 1), below = floor(position);
        lower = (int)below;
        upper = (int)ceil(position);
        share = position - below;
    }
    __device__ double between(double a, double b) const {
        const double height = b - a;
        return share < 0.5 ? a + height * share : b - height * (1.0 - share);
    }
};

// The value of this rank among `n` values `value(0) ...`: the smallest that has more than `rank` values at or below it, by
// halving the range of all numbers in the order of their bits.
template <class F>
__device__ inline double of_rank(F value, int n, int rank) {
    u64 low = 0, high = ~0ull;
    while (low < high) {
        const u64 middle = low + (high - low) / 2;
        int at_most = 0;
        for (int k = 0; k < n; k++) {
            const u64 bits = elementary::to_bits(value(k));
            const u64 key = bits >> 63 ? ~bits : bits | 1ull << 63;
            at_most += key <= middle;
        }
        if (at_most > rank) high = middle;
        else low = middle + 1;
    }
    return number(low >> 63 ? low & ~(1ull << 63) : ~low);
}

template <class F>
__device__ inline double quantile_of(F value, int n, Position position) {
    const double lower = of_rank(value, n, position.lower);
    double upper = lower;
    if (position.upper > position.lower) {
        // The same value again, or the next larger one.
        int at_most = 0;
        double next = number(0x7ff0000000000000ull);
        for (int k = 0; k < n; k++) {
            const double x = value(k);
            if (x <= lower) at_most++;
            else if (x < next) next = x;
        }
        if (at_most <= position.upper) upper = next;
    }
    return position.between(lower, upper);
}

// N values in registers, sorted by Batcher's merge exchange (Knuth, The Art of Computer Programming 3, 5.2.2, algorithm M).
template <int N>
__device__ inline void sort_registers(double* v) {
    int top = 1;
    while (top * 2 < N) top *= 2;
#pragma unroll
    for (int p = top; p > 0; p /= 2) {
        int q = top, r = 0, d = p;
#pragma unroll
        for (int round = 0; round < 6; round++) {
            if (d > 0) {
#pragma unroll
                for (int i = 0; i < N; i++) {
                    if (i + d < N && (i & p) == r) {
                        const double a = v[i], b = v[i + d];
                        v[i] = a < b ? a : b;
                        v[i + d] = a < b ? b : a;
                    }
                }
            }
            if (q == p) break;
            d = q - p;
            q /= 2;
            r = p;
        }
    }
}

// Windows up to this many rows are sorted in registers.
const int MOST_SORTED = 32;

template <u64 N, u64 Q, class X>
__device__ inline double quantile(X x) {
    const int n = (int)N;
    if (is_torn<n>(x)) return nan_value();
    const Position position(number(Q), n);
    if constexpr (n <= MOST_SORTED) {
        double v[n];
#pragma unroll
        for (int k = 0; k < n; k++) v[k] = x[-k] + 0.0;
        sort_registers<n>(v);
        return position.between(v[position.lower], v[position.upper]);
    } else {
        return quantile_of([x](int k) { return x[-k] + 0.0; }, n, position);
    }
}

template <u64 N, class X>
__device__ inline double mad(X x) {
    const int n = (int)N;
    if (is_torn<n>(x)) return nan_value();
    const Position position(0.5, n);
    if constexpr (n <= MOST_SORTED) {
        double v[n];
#pragma unroll
        for (int k = 0; k < n; k++) v[k] = x[-k] + 0.0;
        sort_registers<n>(v);
        const double middle = position.between(v[position.lower], v[position.upper]);
#pragma unroll
        for (int k = 0; k < n; k++) v[k] = fabs(v[k] - middle);
        sort_registers<n>(v);
        return position.between(v[position.lower], v[position.upper]);
    } else {
        const double middle = quantile_of([x](int k) { return x[-k] + 0.0; }, n, position);
        return quantile_of([x, middle](int k) { return fabs(x[-k] + 0.0 - middle); }, n, position);
    }
}

template <u64 N, class X>
__device__ inline double pctrank(X x) {
    if (is_torn<(int)N>(x)) return nan_value();
    int at_most = 0;
    for (int k = 0; k < (int)N; k++) at_most += x[-k] <= x[0];
    return 100.0 * (double)at_most / (double)N;
}

template <u64 N, class X>
__device__ inline double rank(X x) {
    if (is_torn<(int)N>(x)) return nan_value();
    int at_most = 0, below = 0;
    for (int k = 0; k < (int)N; k++) {
        at_most += x[-k] <= x[0];
        below += x[-k] < x[0];
    }
    return 0.5 * (1.0 + (double)below + (double)at_most);
}

// The bin of a value; the first one holds what is below, the last one its upper edge and what is above.
__device__ inline int bin_of(double x, double lowest, double width, int n_bins) {
    const double bin = (x - lowest) / width;
    return bin < (double)(n_bins - 1) ? (bin > 0.0 ? (int)bin : 0) : n_bins - 1;
}

template <u64 N, u64 BINS, class X>
__device__ inline double entropy(X x) {
    const int n = (int)N, n_bins = (int)BINS;
    if (is_torn<n>(x)) return nan_value();
    double lowest = x[0], highest = x[0];
    for (int k = 1; k < n; k++) {
        lowest = smaller(lowest, x[-k]);
        highest = larger(highest, x[-k]);
    }
    const double width = (highest - lowest) / (double)n_bins;
    if (width == 0.0) return 0.0;
    int counts[n_bins];
    for (int bin = 0; bin < n_bins; bin++) counts[bin] = 0;
    for (int k = 0; k < n; k++) counts[bin_of(x[-k], lowest, width, n_bins)]++;
    double sum = 0.0;
    for (int bin = 0; bin < n_bins; bin++) {
        const double share = (double)counts[bin] / (double)n;
        if (counts[bin] > 0 && counts[bin] < n) sum += -share * elementary::ln(share);
    }
    return sum;
}

// A sum weighted by a table, the newest row first.
template <class Table, int N, class X>
__device__ inline double weighted(X x) {
    double sum = 0.0;
    for (int k = 0; k < N; k++) sum = fma(Table::at(k), x[-k], sum);
    return sum;
}

// Table: N cosines, then N sines, of k / N turns.
template <class Table, int N, class X>
__device__ inline double spectral_entropy(X x) {
    const int half = N / 2 + 1;
    const double oldest = x[1 - N];
    double mean = 0.0;
    for (int row = 0; row < N; row++) mean += x[row + 1 - N] - oldest;
    mean /= (double)N;
    double even[half], odd[half];
    for (int row = 0; row < half; row++) {
        const int mirrored = N - row;
        const double a = x[row + 1 - N] - oldest - mean, b = x[mirrored % N + 1 - N] - oldest - mean;
        const bool is_alone = row == 0 || row == mirrored;
        even[row] = is_alone ? a : a + b;
        odd[row] = is_alone ? 0.0 : a - b;
    }
    double total = 0.0, weighted = 0.0;
    for (int frequency = 1; frequency <= N / 2; frequency++) {
        double real = 0.0, imaginary = 0.0;
        for (int row = 0; row < half; row++) {
            const int turn = frequency * row % N;
            real = fma(Table::at(turn), even[row], real);
            imaginary = fma(Table::at(N + turn), odd[row], imaginary);
        }
        const double power = real * real + imaginary * imaginary;
        const double term = power * elementary::ln(power);
        total += power;
        weighted += power == 0.0 ? 0.0 : term;
    }
    return elementary::ln(total) - weighted / total;
}

// Sum of `length` squared differences of a lag, a power of two, the oldest of them `back` rows before: neighbours first.
template <class Y>
__device__ inline double tree_of_squares(Y y, int lag, int back, int length) {
    double waiting[14], sum = 0.0;
    for (int k = 0; k < length; k++) {
        const double difference = y[k - back] - y[k - back - lag];
        sum = difference * difference;
        int place = 0;
        for (int bits = k; bits & 1; bits >>= 1, place++) sum += waiting[place];
        waiting[place] = sum;
    }
    return sum;
}

template <class Y>
__device__ inline double variance_of_deviations(Y y, int n_rows, int lag) {
    const int n = n_rows - lag;
    const double first = y[1 - n] - y[1 - n - lag];
    double mean = 0.0, squares = 0.0;
    for (int k = 1 - n; k <= 0; k++) mean += y[k] - y[k - lag] - first;
    mean /= (double)n;
    for (int k = 1 - n; k <= 0; k++) {
        const double deviation = y[k] - y[k - lag] - first - mean;
        squares += deviation * deviation;
    }
    return squares / (double)n;
}

template <u64 N, u64 SHORTEST, u64 LONGEST, class Y>
__device__ inline double hurst(Y y) {
    const int n = (int)N, shortest = (int)SHORTEST, longest = (int)LONGEST;
    if (longest == 0) return nan_value();
    double mean = 0.0, spread = 0.0;
    for (int lag = shortest; lag <= longest; lag++) mean += elementary::ln((double)lag);
    mean /= (double)(longest - shortest + 1);
    for (int lag = shortest; lag <= longest; lag++) {
        const double far = elementary::ln((double)lag) - mean;
        spread += far * far;
    }
    double out = 0.0, sum = 0.0;
    int n_added = 0;
    for (int lag = shortest; lag <= longest; lag++) {
        // Pairs of ends up to a lag are the sum of the lagged differences.
        for (; n_added < lag; n_added++) sum += y[-n_added] - y[n_added + 1 - n];
        const int rows = n - lag;
        // Lengths are the binary digits of the rows, the longest being the newest.
        int top = 1;
        while (top * 2 <= rows) top *= 2;
        int back = top - 1;
        double squares = tree_of_squares(y, lag, back, top);
        for (int length = top / 2; length > 0; length /= 2) {
            if (!(rows & length)) continue;
            back += length;
            squares += tree_of_squares(y, lag, back, length);
        }
        const double share = 1.0 / (double)rows;
        const double rest = squares - sum * sum * share;
        const double variance = rest < 0.01 * squares ? variance_of_deviations(y, n, lag) : rest * share;
        const double weight = 0.5 * (elementary::ln((double)lag) - mean) / spread;
        out += weight * elementary::ln(variance);
    }
    return out;
}

// Point of control, upper and lower end of the value area, share of the volume at the point of control, entropy. Volumes are
// whole numbers of a unit that the largest decides, as in `profile.rs`.
template <u64 N, u64 BINS, u64 SHARE, class L, class H, class C, class V>
__device__ inline void profile(L low, H high, C close, V volume, double& poc, double& vah, double& val, double& poc_share,
                               double& entropy) {
    const int n = (int)N, n_bins = (int)BINS;
    poc = vah = val = poc_share = entropy = nan_value();
    double lowest = low[0], highest = high[0], largest = 0.0;
    bool is_missing = false;
    for (int k = 0; k < n; k++) {
        const double size = fabs(volume[-k]);
        lowest = smaller(lowest, low[-k]);
        highest = larger(highest, high[-k]);
        largest = larger(largest, size);
        is_missing |= is_nan(low[-k]) || is_nan(high[-k]) || is_nan(close[-k]) || is_nan(size - size);
    }
    const double width = (highest - lowest) / (double)n_bins;
    if (is_missing || !(width > 0.0)) return;
    u64 bits = 61;
    for (int k = n; k > 1; k /= 2) bits--;
    if (bits > 50) bits = 50;
    u64 exponent = elementary::to_bits(largest) >> 52;
    if (exponent < bits) exponent = bits;
    const double units = number((2046 + bits - exponent) << 52);
    const double round = 6755399441055744.0;
    i64 bins[n_bins], total = 0;
    for (int bin = 0; bin < n_bins; bin++) bins[bin] = 0;
    for (int k = 0; k < n; k++) {
        const i64 quantity = (i64)(elementary::to_bits(volume[-k] * units + round) - elementary::to_bits(round));
        bins[bin_of(close[-k], lowest, width, n_bins)] += quantity;
        total += quantity;
    }
    if (total <= 0) return;
    int peak = 0;
    for (int bin = 1; bin < n_bins; bin++)
        if (bins[bin] > bins[peak]) peak = bin;
    i64 enough = (i64)ceil(number(SHARE) * (double)total), held = bins[peak];
    if (enough > total) enough = total;
    int first = peak, last = peak;
    while (held < enough && (first > 0 || last + 1 < n_bins)) {
        const bool is_up = first == 0 || (last + 1 < n_bins && bins[last + 1] >= bins[first - 1]);
        held += is_up ? bins[++last] : bins[--first];
    }
    poc = lowest + ((double)peak + 0.5) * width;
    vah = lowest + ((double)last + 0.5) * width;
    val = lowest + ((double)first + 0.5) * width;
    poc_share = (double)bins[peak] / (double)total;
    entropy = 0.0;
    for (int bin = 0; bin < n_bins; bin++) {
        const double share = (double)bins[bin] / (double)total;
        if (share > 0.0) entropy -= share * elementary::ln(share);
    }
}

__device__ inline double normal(double x) { return 0.5 * (1.0 + erf(x * 0.707106781186547524400844362104849039)); }

// A call at the money. Inputs: price, volatility.
template <u64 DAYS, u64 RATE, class P, class S>
__device__ inline void greeks(P in_price, S in_sigma, double& delta, double& gamma, double& theta, double& vega) {
    const double years = number(DAYS) / 365.0, rate = number(RATE);
    const double root = sqrt(years), discount = elementary::exp(-rate * years);
    const double price = in_price[0], sigma = in_sigma[0];
    delta = gamma = theta = vega = nan_value();
    if (!(sigma > 0.0 && price > 0.0)) return;
    const double first = (rate / sigma + 0.5 * sigma) * root;
    const double density = 0.3989422804014327 * elementary::exp(-0.5 * first * first);
    const double second = first - sigma * root;
    delta = normal(first);
    if (is_nan(delta)) return;
    vega = price * density * root;
    theta = -0.5 * price * density * sigma / root - rate * price * discount * normal(second);
    gamma = density / (price * sigma * root);
}
