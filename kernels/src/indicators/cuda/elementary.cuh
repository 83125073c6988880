// Elementary functions with the bits of the CPU's: the same operations, none of them fused.
// Source: FreeBSD's e_log.c, e_exp.c, k_sin.c, k_cos.c and e_rem_pio2.c (Sun Microsystems, 1993), with selects in the place
// of branches.

namespace elementary {

const double LN_2_HIGH = 6.93147180369123816490e-01;
const double LN_2_LOW = 1.90821492927058770002e-10;
const double WHOLE = 4503599627370496.0;
const double ROUND = 6755399441055744.0;

__device__ inline u64 to_bits(double x) { return (u64)__double_as_longlong(x); }

__device__ inline double ln(double x) {
    const u64 HALF_ROOT = 0x3fe6a09e00000000ull, ONE = 0x3ff0000000000000ull, FRACTION = 0x000fffffffffffffull;
    const bool is_subnormal = x < 2.2250738585072014e-308;
    const double normal = is_subnormal ? x * 18014398509481984.0 : x;
    const double bias = is_subnormal ? 1023.0 + 54.0 : 1023.0;
    const u64 shifted = to_bits(normal) + (ONE - HALF_ROOT);
    const double k = number((shifted >> 52) | to_bits(WHOLE)) - (WHOLE + bias);
    const double m = number((shifted & FRACTION) + HALF_ROOT);

    const double f = m - 1.0;
    const double half_square = 0.5 * f * f;
    const double s = f / (2.0 + f);
    const double z = s * s;
    const double w = z * z;
    const double even = w * (3.999999999940941908e-01 + w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01));
    const double odd = z * (6.666666666666735130e-01
        + w * (2.857142874366239149e-01 + w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01)));
    double y = s * (half_square + (odd + even)) + k * LN_2_LOW - half_square + f + k * LN_2_HIGH;
    y = x < number(0x7ff0000000000000ull) ? y : x;
    return x <= 0.0 ? nan_value() : y;
}

__device__ inline double exp(double x) {
    const double HALF = number(0x3fd62e4300000000ull), THREE_HALVES = number(0x3ff0a2b200000000ull);
    const double SMALL = number(0x3e30000100000000ull);
    const double LOG2_E = 1.44269504088896340735992468100189214;
    const double size = fabs(x);
    double x_inside = x < -746.0 ? -746.0 : x;
    x_inside = x_inside > 710.0 ? 710.0 : x_inside;
    const double half = x < 0.0 ? -0.5 : 0.5;
    double k = trunc(LOG2_E * x_inside + half);
    k = size < THREE_HALVES ? 2.0 * half : k;
    k = size < HALF ? 0.0 : k;

    const double high = x_inside - k * LN_2_HIGH;
    const double low = k * LN_2_LOW;
    const double r = high - low;
    const double square = r * r;
    const double c = r - square * (1.66666666666666019037e-01
        + square * (-2.77777777770155933842e-03
            + square * (6.61375632143793436117e-05
                + square * (-1.65339022054652515390e-06 + square * 4.13813679705723846039e-08))));
    double y = 1.0 + (r * c / (2.0 - c) - low + high);
    const i64 whole = (i64)(to_bits(k + ROUND) - to_bits(ROUND));
    const i64 first = whole >> 1;
    const i64 second = whole - first;
    y = y * number((u64)(first + 1023) << 52) * number((u64)(second + 1023) << 52);
    y = size < SMALL ? 1.0 + x : y;
    return is_nan(x) ? x : y;
}

// Sine and cosine of angles of at most 1647099 in size.
__device__ inline void sin_cos(double x, double& sine, double& cosine) {
    const double FRAC_2_PI = 0.636619772367581343075535053490057448;
    const double turned = x * FRAC_2_PI + ROUND;
    const double n = turned - ROUND;
    const double a = x - n * 1.57079632673412561417e+00;
    double w = n * 6.07710050630396597660e-11;
    const double b = a - w;
    double lost = (a - b) - w;
    w = n * 2.02226624871116645580e-21;
    const double c = b - w;
    lost = ((b - c) - w) + lost - n * 8.47842766036889956997e-32;
    const double high = c + lost;
    const double low = (c - high) + lost;

    const double z = high * high;
    w = z * z;
    double r = 8.33333333332248946124e-03 + z * (-1.98412698298579493134e-04 + z * 2.75573137070700676789e-06)
        + z * w * (-2.50507602534068634195e-08 + z * 1.58969099521155010221e-10);
    const double v = z * high;
    const double s = high - ((z * (0.5 * low - v * r) - low) - v * -1.66666666666666324348e-01);
    r = z * (4.16666666666666019037e-02 + z * (-1.38888888888741095749e-03 + z * 2.48015872894767294178e-05))
        + w * w * (-2.75573143513906633035e-07 + z * (2.08757232129817482790e-09 + z * -1.13596475577881948265e-11));
    const double half = 0.5 * z;
    const double rest = 1.0 - half;
    const double q = rest + (((1.0 - rest) - half) + (z * r - high * low));

    const u64 quadrant = to_bits(turned);
    const bool is_odd = (quadrant & 1) != 0;
    sine = is_odd ? q : s;
    cosine = is_odd ? s : q;
    if (quadrant & 2) sine = -sine;
    if ((quadrant + 1) & 2) cosine = -cosine;
}

__device__ inline double sin(double x) {
    double sine, cosine;
    sin_cos(x, sine, cosine);
    return fabs(x) > 1647099.0 ? ::sin(x) : sine;
}

__device__ inline double cos(double x) {
    double sine, cosine;
    sin_cos(x, sine, cosine);
    return fabs(x) > 1647099.0 ? ::cos(x) : cosine;
}

}  // namespace elementary
