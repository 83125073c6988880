// Formulas of the values of one row, or of one row and an earlier one; twins of `pointwise.rs` and of the formulas of the
// families. Template arguments are the words of the kernel's Id; the last is the lag.

__device__ inline double quotient_or(double numerator, double denominator, double otherwise) {
    return denominator == 0.0 && !is_nan(numerator) ? otherwise : numerator / denominator;
}

__device__ inline double flag(bool holds, double x, double y) {
    return is_nan(x) || is_nan(y) ? nan_value() : holds ? 1.0 : 0.0;
}

// The larger one; NaN if one is.
__device__ inline double larger(double x, double y) { return is_nan(x) || x > y ? x : y; }

// The smaller one; NaN if one is.
__device__ inline double smaller(double x, double y) { return is_nan(x) || x < y ? x : y; }

#define FORMULA_1(name, expression) \
    template <u64 LAG, class X> __device__ inline double name(X in_x) { const double x = in_x[0]; return expression; }
#define FORMULA_2(name, expression) \
    template <u64 LAG, class X, class Y> __device__ inline double name(X in_x, Y in_y) { \
        const double x = in_x[0], y = in_y[0]; return expression; }
#define FORMULA_3(name, expression) \
    template <u64 LAG, class X, class Y, class Z> __device__ inline double name(X in_x, Y in_y, Z in_z) { \
        const double x = in_x[0], y = in_y[0], z = in_z[0]; return expression; }
#define FORMULA_4(name, expression) \
    template <u64 LAG, class X, class Y, class Z, class W> \
    __device__ inline double name(X in_x, Y in_y, Z in_z, W in_w) { \
        const double x = in_x[0], y = in_y[0], z = in_z[0], w = in_w[0]; return expression; }
// With one number `p`.
#define FORMULA_1P(name, expression) \
    template <u64 P, u64 LAG, class X> __device__ inline double name(X in_x) { \
        const double x = in_x[0], p = number(P); return expression; }
#define FORMULA_2P(name, expression) \
    template <u64 P, u64 LAG, class X, class Y> __device__ inline double name(X in_x, Y in_y) { \
        const double x = in_x[0], y = in_y[0], p = number(P); return expression; }
// With the value LAG rows before.
#define LAGGED_1(name, expression) \
    template <u64 LAG, class X> __device__ inline double name(X in_x) { \
        const double x = in_x[0], x_before = in_x[-(int)LAG]; return expression; }
#define LAGGED_2(name, expression) \
    template <u64 LAG, class X, class Y> __device__ inline double name(X in_x, Y in_y) { \
        const double x = in_x[0], x_before = in_x[-(int)LAG], y = in_y[0], y_before = in_y[-(int)LAG]; \
        return expression; }

namespace pointwise {
FORMULA_2(add, x + y)
FORMULA_2(sub, x - y)
FORMULA_2(mul, x * y)
FORMULA_2(div, quotient_or(x, y, nan_value()))
FORMULA_1(neg, -x)
FORMULA_1(abs, fabs(x))
FORMULA_1(ln, elementary::ln(x))
FORMULA_1(exp, elementary::exp(x))
FORMULA_1(sqrt, ::sqrt(x))
FORMULA_1(sin, elementary::sin(x))
FORMULA_1(cos, elementary::cos(x))
FORMULA_2(max2, larger(x, y))
FORMULA_2(min2, smaller(x, y))
FORMULA_2(gt, flag(x > y, x, y))
FORMULA_2(ge, flag(x >= y, x, y))
FORMULA_2(lt, flag(x < y, x, y))
FORMULA_2(le, flag(x <= y, x, y))
FORMULA_2(eq, flag(!(x < y) && !(x > y), x, y))
FORMULA_2(ne, flag(x < y || x > y, x, y))
FORMULA_2(and_, flag(x != 0.0 && y != 0.0, x, y))
FORMULA_2(or_, flag(x != 0.0 || y != 0.0, x, y))
FORMULA_1(not_, flag(x == 0.0, x, x))
FORMULA_3(select, is_nan(x) ? x : x == 0.0 ? z : y)
FORMULA_3(clip, smaller(larger(x, y), z))
FORMULA_1P(scaled, x * p)
}  // namespace pointwise

#define LAGGED_1P(name, expression) \
    template <u64 P, u64 LAG, class X> __device__ inline double name(X in_x) { \
        const double x = in_x[0], x_before = in_x[-(int)LAG], p = number(P); return expression; }

#define FORMULA_3P(name, expression) \
    template <u64 P, u64 LAG, class X, class Y, class Z> __device__ inline double name(X in_x, Y in_y, Z in_z) { \
        const double x = in_x[0], y = in_y[0], z = in_z[0], p = number(P); return expression; }
#define FORMULA_2PQ(name, expression) \
    template <u64 P, u64 Q, u64 LAG, class X, class Y> __device__ inline double name(X in_x, Y in_y) { \
        const double x = in_x[0], y = in_y[0], p = number(P), q = number(Q); return expression; }
#define LAGGED_2P(name, expression) \
    template <u64 P, u64 LAG, class X, class Y> __device__ inline double name(X in_x, Y in_y) { \
        const double x = in_x[0], x_before = in_x[-(int)LAG], y = in_y[0], p = number(P); return expression; }

__device__ inline double log_ratio(double x, double y) { return elementary::ln(y > 0.0 ? x / y : nan_value()); }
__device__ inline double squared(double x) { return x * x; }
__device__ inline double at_most_one(double x) { return x > 1.0 ? 1.0 : x; }
__device__ inline double in_unit(double x) { return at_most_one(x) < -1.0 ? -1.0 : at_most_one(x); }
__device__ inline double unless_nan(double x, double value) { return is_nan(x) ? nan_value() : value; }

namespace window {
namespace moments {
FORMULA_1P(root_mean, ::sqrt(x / p))
FORMULA_1P(share_of, x / p)
FORMULA_2(standardised, quotient_or(x, y, nan_value()))
FORMULA_2P(band, fma(y, p, x))
FORMULA_2P(band_width, quotient_or(2.0 * p * y, x, nan_value()))
FORMULA_2P(place_between_bands, quotient_or(x + p * y, 2.0 * (p * y), nan_value()))
FORMULA_2P(skewness, quotient_or(p * y, x * ::sqrt(x), nan_value()))
FORMULA_2PQ(kurtosis, quotient_or(p * y, x * x, nan_value()) - q)
}  // namespace moments
namespace comoments {
FORMULA_3(correlation, in_unit(quotient_or(z, ::sqrt(x) * ::sqrt(y), nan_value())))
FORMULA_1P(share_of, x / p)
FORMULA_2(slope, quotient_or(y, x, nan_value()))
}  // namespace comoments
namespace regression {
FORMULA_2P(at, fma(y, p, x))
FORMULA_2P(explained, at_most_one(quotient_or(x * x * p, y, nan_value())))
FORMULA_2(twice_less, 2.0 * x - y)
}  // namespace regression
namespace returns {
LAGGED_1(before, x_before)
LAGGED_1(change, x - x_before)
LAGGED_1P(relative, p * (quotient_or(x, x_before, nan_value()) - 1.0))
LAGGED_1(log_relative, elementary::ln(x_before > 0.0 ? x / x_before : nan_value()))
}  // namespace returns
namespace extremes {
FORMULA_3(place_between, quotient_or(x - y, z - y, nan_value()))
FORMULA_2(middle, 0.5 * (x + y))
}  // namespace extremes
namespace oscillators {
FORMULA_3(percent_of_range, 100.0 * quotient_or(x - z, y - z, 0.0))
FORMULA_3(percent_below, -100.0 * quotient_or(y - x, y - z, 0.0))
FORMULA_2(where_defined, is_nan(y) ? y : x)
FORMULA_2(channel, quotient_or(x, 0.015 * y, 0.0))
FORMULA_1P(freshness, 100.0 * ((p - x) / p))
FORMULA_3(ultimate, 100.0 * ((4.0 * x + 2.0 * y + z) / 7.0))
FORMULA_2(share, quotient_or(x, y, 0.0))
LAGGED_1(rise, x - x_before < 0.0 ? 0.0 : x - x_before)
LAGGED_1(movement, fabs(x - x_before))
LAGGED_2(reach, fabs(x - y_before))
// The close less the true low.
template <u64 LAG, class L, class C>
__device__ inline double pressure(L low, C close) { return close[0] - smaller(low[0], close[-(int)LAG]); }
}  // namespace oscillators
namespace ranges {
FORMULA_3(typical_price, (x + y + z) / 3.0)
FORMULA_2(middle_price, 0.5 * (x + y))
FORMULA_4(power, y - z <= 0.0 ? 0.0 * (w - x) : (w - x) / (y - z))
FORMULA_2(squared_log_range, squared(log_ratio(x, y)))
FORMULA_4(garman_klass_of,
          0.5 * squared(log_ratio(y, z)) - (2.0 * 0.693147180559945309417232121458176568 - 1.0) * squared(log_ratio(w, x)))
FORMULA_4(rogers_satchell_of, log_ratio(y, w) * log_ratio(y, x) + log_ratio(z, w) * log_ratio(z, x))
FORMULA_2(log_body, log_ratio(y, x))
FORMULA_1P(root, ::sqrt(x * p))
FORMULA_3P(yang_zhang_of, ::sqrt(x + p * y + (1.0 - p) * z))
FORMULA_3P(choppiness, p * elementary::ln(quotient_or(x, y - z, nan_value())))
template <u64 LAG, class H, class L, class C>
__device__ inline double true_range_of(H high, L low, C close) {
    const double before = close[-(int)LAG];
    return larger(larger(high[0] - low[0], fabs(high[0] - before)), fabs(low[0] - before));
}
LAGGED_2(log_gap, log_ratio(x, y_before))
}  // namespace ranges
namespace volume {
FORMULA_2(ratio, quotient_or(x, y, nan_value()))
FORMULA_4(flow_in_range, quotient_or((z - y) - (x - z), x - y, 0.0) * w)
FORMULA_2P(percent, 100.0 * quotient_or(x, y, p / 100.0))
LAGGED_2P(rising_flow, unless_nan((x - x_before) + x * y, x - x_before > p * fabs(x) ? x * y : 0.0))
LAGGED_2P(flow, unless_nan((x - x_before) + x * y, fabs(x - x_before) > p * fabs(x) ? x * y : 0.0))
}  // namespace volume
}  // namespace window
