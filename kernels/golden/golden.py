#!/usr/bin/env python3
"""Writes reference values of the indicators for candles.csv, from TA-Lib and from plain definitions.

    python3 -m venv venv
    venv/bin/pip install TA-Lib==0.8.2 numpy
    venv/bin/python golden.py

TA-Lib 0.8.2 is the Python package around TA-Lib C 0.8.1. Plain definitions compute every window by itself with exact sums
(math.fsum) and two passes; nothing is carried from row to row except where the definition is a recurrence.

candles.csv are 500 candles of the market simulator (seed 23): `uses = "load.synthetic"` with `rows = 500`,
`interval = "1h"`, `start_price = 100.0`, `tick_size = 0.01`, written by `natron export`.

A column is called `name:argument:...:output`: an indicator of the catalogue, its series and parameters, and its output
where it has several. Series are columns of candles.csv, and `r`, which is `return:close:1`, and
`v`, a yearly volatility. An empty cell is not defined.
"""

import csv
import math
from datetime import datetime
from pathlib import Path

import numpy as np
import talib

HERE = Path(__file__).parent
NAN = math.nan
COLUMNS = {}


def read():
    with open(HERE / "candles.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    times = [datetime.fromisoformat(row["ts_ns"].replace("Z", "+00:00")) for row in rows]
    return times, *([float(row[name]) for row in rows] for name in ("open", "high", "low", "close", "volume"))


TIMES, OPEN, HIGH, LOW, CLOSE, VOLUME = read()
N = len(CLOSE)
TYPICAL = [(h + l + c) / 3 for h, l, c in zip(HIGH, LOW, CLOSE)]


def put(name, values):
    """Adds a column; numbers and truths alike."""
    values = [float(x) for x in values]
    assert len(values) == N and name not in COLUMNS, name
    COLUMNS[name] = values


def puts(prefix, outputs):
    for output, values in outputs.items():
        put(f"{prefix}:{output}", values)


def rows(f, *series, first=0):
    """f of each row's values; undefined before `first` and where a value is."""
    out = []
    for t, values in enumerate(zip(*series)):
        out.append(NAN if t < first or any(map(math.isnan, values)) else f(*values))
    return out


def windows(f, n, *series):
    """f of the last n values of each series, undefined until there are as many and where one is undefined."""
    out = [NAN] * N
    for t in range(n - 1, N):
        parts = [list(x[t - n + 1 : t + 1]) for x in series]
        if not any(math.isnan(x) for part in parts for x in part):
            out[t] = f(*parts)
    return out


def lag(x, n):
    return [NAN] * n + list(x[: N - n])


def ta(function, *series, **parameters):
    """TA-Lib's function; one list of values or several."""
    out = function(*(np.array(x, dtype=float) for x in series), **parameters)
    if isinstance(out, (tuple, list)):
        return [column.tolist() for column in out]
    return out.tolist()


def divide(a, b):
    return a / b if b != 0 else NAN


def mean(x):
    return math.fsum(x) / len(x)


def central(x, power):
    middle = mean(x)
    return math.fsum((value - middle) ** power for value in x)


def variance(x, ddof=1):
    return central(x, 2) / (len(x) - ddof)


def std(x, ddof=1):
    return math.sqrt(variance(x, ddof))


def codeviation(x, y):
    mean_x, mean_y = mean(x), mean(y)
    return math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y))


def correlation(x, y):
    return divide(codeviation(x, y), math.sqrt(codeviation(x, x) * codeviation(y, y)))


def skewness(x):
    n = len(x)
    second, third = central(x, 2) / n, central(x, 3) / n
    return divide(third, second**1.5) * math.sqrt(n * (n - 1)) / (n - 2)


def kurtosis(x):
    n = len(x)
    second, fourth = central(x, 2) / n, central(x, 4) / n
    return (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * (divide(fourth, second**2) - 3) + 6)


def quantile(x, q):
    x = sorted(x)
    position = q * (len(x) - 1)
    below = math.floor(position)
    above = min(below + 1, len(x) - 1)
    return x[below] + (x[above] - x[below]) * (position - below)


def ema0(x, n):
    a, out = 2 / (n + 1), []
    for value in x:
        out.append(value if not out else out[-1] + a * (value - out[-1]))
    return out


def returns_and_sums():
    for n in (1, 5):
        earlier = lag(CLOSE, n)
        put(f"lag:close:{n}", earlier)
        put(f"diff:close:{n}", rows(lambda now, then: now - then, CLOSE, earlier))
        put(f"return:close:{n}", rows(lambda now, then: now / then - 1, CLOSE, earlier))
        put(f"log_return:close:{n}", rows(lambda now, then: math.log(now / then), CLOSE, earlier))
    put("roc:close:10", ta(talib.ROC, CLOSE, timeperiod=10))
    put("mom:close:10", ta(talib.MOM, CLOSE, timeperiod=10))
    put("sum:volume:20", windows(math.fsum, 20, VOLUME))
    put("cumsum:volume", [math.fsum(VOLUME[: t + 1]) for t in range(N)])
    for n in (5, 20, 50, 200):
        put(f"sma:close:{n}", windows(mean, n, CLOSE))
    put("wma:close:20", ta(talib.WMA, CLOSE, timeperiod=20))
    put("trima:close:20", ta(talib.TRIMA, CLOSE, timeperiod=20))
    put("trima:close:15", ta(talib.TRIMA, CLOSE, timeperiod=15))
    put("hma:close:20", ta(talib.HMA, CLOSE, timeperiod=20))
    weighted = lambda x, v: divide(math.fsum(a * b for a, b in zip(x, v)), math.fsum(v))
    put("vwma:close:20", windows(weighted, 20, CLOSE, VOLUME))
    put("vwap:20", windows(weighted, 20, TYPICAL, VOLUME))
    put("volume_ratio:20", windows(lambda v: divide(v[-1], mean(v)), 20, VOLUME))
    put("price_position:close:20", windows(lambda x: divide(x[-1] - min(x), max(x) - min(x)), 20, CLOSE))


def moments():
    r = COLUMNS["r"]
    for n in (5, 20, 100):
        put(f"std:close:{n}:1", windows(std, n, CLOSE))
    put("std:close:20:0", windows(lambda x: std(x, 0), 20, CLOSE))
    put("std:r:20:1", windows(std, 20, r))
    put("var:close:20:1", windows(variance, 20, CLOSE))
    put("zscore:close:20", windows(lambda x: divide(x[-1] - mean(x), std(x)), 20, CLOSE))
    put("zscore:volume:20", windows(lambda x: divide(x[-1] - mean(x), std(x)), 20, VOLUME))
    for name, f in (("skew", skewness), ("kurt", kurtosis)):
        put(f"{name}:r:20", windows(f, 20, r))
        put(f"{name}:close:50", windows(f, 50, CLOSE))
    put("avgdev:close:14", windows(lambda x: mean([abs(v - mean(x)) for v in x]), 14, CLOSE))
    put("corr:close:volume:20", windows(correlation, 20, CLOSE, VOLUME))
    put("cov:close:volume:20", windows(lambda x, y: codeviation(x, y) / (len(x) - 1), 20, CLOSE, VOLUME))
    put("beta:close:open:20", windows(lambda x, y: divide(codeviation(x, y), codeviation(y, y)), 20, CLOSE, OPEN))
    for lagged in (1, 5):
        put(f"autocorr:r:20:{lagged}", windows(lambda x: correlation(x[lagged:], x[:-lagged]), 20, r))
    time = list(range(20))
    slope = lambda x: codeviation(time, x) / codeviation(time, time)
    puts(
        "linreg:close:20",
        {
            "slope": windows(slope, 20, CLOSE),
            "intercept": windows(lambda x: mean(x) - slope(x) * mean(time), 20, CLOSE),
            "end": windows(lambda x: mean(x) + slope(x) * (19 - mean(time)), 20, CLOSE),
            "r2": windows(lambda x: correlation(time, x) ** 2, 20, CLOSE),
        },
    )


def extremes():
    newest = lambda x, best: x[::-1].index(best)
    for n in (14, 50):
        put(f"max:high:{n}", windows(max, n, HIGH))
        put(f"min:low:{n}", windows(min, n, LOW))
        put(f"argmax:high:{n}", windows(lambda x: newest(x, max(x)), n, HIGH))
        put(f"argmin:low:{n}", windows(lambda x: newest(x, min(x)), n, LOW))
    upper, lower = windows(max, 20, HIGH), windows(min, 20, LOW)
    puts("donchian:20", {"upper": upper, "lower": lower, "mid": rows(lambda a, b: (a + b) / 2, upper, lower)})
    puts("stoch:14:3:3", dict(zip("kd", ta(talib.STOCH, HIGH, LOW, CLOSE, fastk_period=14, slowk_period=3, slowd_period=3))))
    puts("stochf:14:3", dict(zip("kd", ta(talib.STOCHF, HIGH, LOW, CLOSE, fastk_period=14, fastd_period=3))))
    put("willr:14", ta(talib.WILLR, HIGH, LOW, CLOSE, timeperiod=14))

    def cci(x):
        deviation = mean([abs(value - mean(x)) for value in x])
        return (x[-1] - mean(x)) / (0.015 * deviation) if deviation else 0

    put("cci:20", windows(cci, 20, TYPICAL))
    down, up = ta(talib.AROON, HIGH, LOW, timeperiod=14)
    puts("aroon:14", {"up": up, "down": down, "osc": rows(lambda a, b: a - b, up, down)})


def volatility():
    upper, mid, lower = (windows(lambda x: mean(x) + k * std(x, 0), 20, CLOSE) for k in (2, 0, -2))
    puts(
        "bbands:close:20:2:0",
        {
            "upper": upper,
            "mid": mid,
            "lower": lower,
            "width": rows(lambda u, m, l: (u - l) / m, upper, mid, lower),
            "pctb": rows(lambda c, u, l: divide(c - l, u - l), CLOSE, upper, lower),
        },
    )
    log = lambda x, y: [math.log(a / b) for a, b in zip(x, y)]
    ln2 = math.log(2)
    put("parkinson:20", windows(lambda h, l: math.sqrt(mean([x * x for x in log(h, l)]) / (4 * ln2)), 20, HIGH, LOW))

    def garman_klass(o, h, l, c):
        return math.sqrt(mean([0.5 * x * x - (2 * ln2 - 1) * y * y for x, y in zip(log(h, l), log(c, o))]))

    def rogers_satchell(o, h, l, c):
        return mean([a * b + d * e for a, b, d, e in zip(log(h, c), log(h, o), log(l, c), log(l, o))])

    def yang_zhang(o, h, l, c, before):
        k = 0.34 / (1.34 + (len(o) + 1) / (len(o) - 1))
        return math.sqrt(variance(log(o, before)) + k * variance(log(c, o)) + (1 - k) * rogers_satchell(o, h, l, c))

    bars = (OPEN, HIGH, LOW, CLOSE)
    put("garman_klass:20", windows(garman_klass, 20, *bars))
    put("rogers_satchell:20", windows(lambda *x: math.sqrt(rogers_satchell(*x)), 20, *bars))
    put("yang_zhang:20", windows(yang_zhang, 20, *bars, lag(CLOSE, 1)))
    put("realized_vol:close:20", windows(std, 20, COLUMNS["log_return:close:1"]))
    true_range = ta(talib.TRANGE, HIGH, LOW, CLOSE)
    put("tr", true_range)
    choppiness = lambda tr, h, l: 100 * math.log10(math.fsum(tr) / (max(h) - min(l))) / math.log10(14)
    put("chop:14", windows(choppiness, 14, true_range, HIGH, LOW))
    put("atr:14", ta(talib.ATR, HIGH, LOW, CLOSE, timeperiod=14))
    put("natr:14", ta(talib.NATR, HIGH, LOW, CLOSE, timeperiod=14))
    upper, mid, lower = ta(talib.KC, HIGH, LOW, CLOSE, timeperiod=20, atrperiod=10, nbdev=2)
    puts("keltner:20:10:2", {"mid": mid, "upper": upper, "lower": lower})
    mid, atr = ta(talib.EMA, CLOSE, timeperiod=20), ta(talib.ATR, HIGH, LOW, CLOSE, timeperiod=14)
    puts(
        "kc:20:14:2",
        {
            "upper": rows(lambda m, a: m + 2 * a, mid, atr),
            "lower": rows(lambda m, a: m - 2 * a, mid, atr),
            "width": rows(lambda m, a: 4 * a / m, mid, atr),
        },
    )
    a, state, out = 2 / 21, NAN, []
    for r in COLUMNS["r"]:
        if not math.isnan(r):
            state = r * r if math.isnan(state) else (1 - a) * state + a * r * r
        out.append(math.sqrt(state) if not math.isnan(state) else NAN)
    put("ewma_vol:r:20", out)


def averages():
    for n in (5, 12, 20, 26, 50):
        put(f"ema:close:{n}", ta(talib.EMA, CLOSE, timeperiod=n))
        put(f"ema0:close:{n}", ema0(CLOSE, n))
    put("rma:close:14", ta(talib.RMA, CLOSE, timeperiod=14))
    put("dema:close:20", ta(talib.DEMA, CLOSE, timeperiod=20))
    put("tema:close:20", ta(talib.TEMA, CLOSE, timeperiod=20))
    put("t3:close:5:0.7", ta(talib.T3, CLOSE, timeperiod=5, vfactor=0.7))
    put("kama:close:10:2:30", ta(talib.KAMA, CLOSE, timeperiod=10))
    put("trix:close:15", ta(talib.TRIX, CLOSE, timeperiod=15))
    puts("macd:close:12:26:9", dict(zip(("line", "signal", "hist"), ta(talib.MACD, CLOSE))))
    line = rows(lambda a, b: a - b, ema0(CLOSE, 12), ema0(CLOSE, 26))
    signal = ema0(line, 9)
    puts("macd0:close:12:26:9", {"line": line, "signal": signal, "hist": rows(lambda a, b: a - b, line, signal)})
    exponential = {"fastperiod": 12, "slowperiod": 26, "matype": talib.MA_Type.EMA}
    put("ppo:close:12:26", ta(talib.PPO, CLOSE, **exponential))
    put("apo:close:12:26", ta(talib.APO, CLOSE, **exponential))


def oscillators():
    for n in (7, 14):
        put(f"rsi:close:{n}", ta(talib.RSI, CLOSE, timeperiod=n))
    put("cmo:close:14", ta(talib.CMO, CLOSE, timeperiod=14))

    def cutler(changes):
        up, down = (math.fsum(max(sign * x, 0) for x in changes) for sign in (1, -1))
        return 100 * up / (up + down) if up + down else 0

    put("rsi_sma:close:14", windows(cutler, 14, COLUMNS["diff:close:1"]))
    fast = ta(talib.STOCHRSI, CLOSE, timeperiod=14, fastk_period=14, fastd_period=3)
    puts("stochrsi:close:14:14:3", dict(zip("kd", fast)))
    put("ultosc:7:14:28", ta(talib.ULTOSC, HIGH, LOW, CLOSE, timeperiod1=7, timeperiod2=14, timeperiod3=28))
    put("awesome:5:34", ta(talib.AO, HIGH, LOW, fastperiod=5, slowperiod=34))
    put("bop", ta(talib.BOP, OPEN, HIGH, LOW, CLOSE))
    puts("di:14", {"plus": ta(talib.PLUS_DI, HIGH, LOW, CLOSE, timeperiod=14), "minus": ta(talib.MINUS_DI, HIGH, LOW, CLOSE, timeperiod=14)})
    for name in ("dx", "adx", "adxr"):
        put(f"{name}:14", ta(getattr(talib, name.upper()), HIGH, LOW, CLOSE, timeperiod=14))
    put("sar:0.02:0.2", ta(talib.SAR, HIGH, LOW, acceleration=0.02, maximum=0.2))
    line, direction = ta(talib.SUPERTREND, HIGH, LOW, CLOSE, timeperiod=10, multiplier=3)
    puts("supertrend:10:3", {"line": line, "direction": rows(lambda d, x: d, direction, line)})
    puts("vortex:14", dict(zip(("plus", "minus"), ta(talib.VORTEX, HIGH, LOW, CLOSE, timeperiod=14))))
    put("typical", TYPICAL)
    put("median_price", ta(talib.MEDPRICE, HIGH, LOW))


def volume():
    bars = (HIGH, LOW, CLOSE, VOLUME)
    put("obv", ta(talib.OBV, CLOSE, VOLUME))
    put("ad", ta(talib.AD, *bars))
    put("adosc:3:10", ta(talib.ADOSC, *bars, fastperiod=3, slowperiod=10))
    put("mfi:14", ta(talib.MFI, *bars, timeperiod=14))
    multiplier = lambda h, l, c: ((c - l) - (h - c)) / (h - l) if h != l else 0
    flow = rows(lambda h, l, c, v: multiplier(h, l, c) * v, *bars)
    put("cmf:20", windows(lambda f, v: divide(math.fsum(f), math.fsum(v)), 20, flow, VOLUME))
    signed = [NAN]
    for t in range(1, N):
        change = TYPICAL[t] - TYPICAL[t - 1]
        is_tie = abs(change) <= 1e-12 * TYPICAL[t]
        signed.append(0 if is_tie else math.copysign(TYPICAL[t] * VOLUME[t], change))

    def plain_flow(flows):
        up, down = (math.fsum(max(sign * x, 0) for x in flows) for sign in (1, -1))
        return 100 * up / (up + down) if up + down else 50

    put("mfi_plain:14", windows(plain_flow, 14, signed))
    steps = [0.0] + [VOLUME[t] * (CLOSE[t] / CLOSE[t - 1] - 1) for t in range(1, N)]
    put("vpt", [math.fsum(steps[: t + 1]) for t in range(N)])
    put("efi:13", ta(talib.EFI, CLOSE, VOLUME, timeperiod=13))


def candles():
    bars = (OPEN, HIGH, LOW, CLOSE)
    share = lambda part, h, l, flat=0.0: part / (h - l) if h != l else flat
    put("body_ratio", rows(lambda o, h, l, c: share(abs(c - o), h, l), *bars))
    put("upper_shadow_ratio", rows(lambda o, h, l, c: share(h - max(o, c), h, l), *bars))
    put("lower_shadow_ratio", rows(lambda o, h, l, c: share(min(o, c) - l, h, l), *bars))
    put("position_in_range", rows(lambda o, h, l, c: share(c - l, h, l, 0.5), *bars))
    put("is_doji", rows(lambda o, h, l, c: abs(c - o) < 0.1 * (h - l), *bars))
    put("candle_dir", rows(lambda o, c: c > o, OPEN, CLOSE))
    put("gap_up", rows(lambda low, before: low > before, LOW, lag(HIGH, 1)))
    put("gap_down", rows(lambda high, before: high < before, HIGH, lag(LOW, 1)))
    put("body_pct", rows(lambda o, c: abs(c - o) / c, OPEN, CLOSE))
    put("upper_shadow_pct", rows(lambda o, h, c: (h - max(o, c)) / c, OPEN, HIGH, CLOSE))
    put("lower_shadow_pct", rows(lambda o, l, c: (min(o, c) - l) / c, OPEN, LOW, CLOSE))
    put("hl_ratio", rows(lambda h, l, c: (h - l) / c, HIGH, LOW, CLOSE))
    put("co_ratio", rows(lambda o, c: (c - o) / o, OPEN, CLOSE))
    for name in (
        "doji engulfing hammer shootingstar morningstar eveningstar harami 3whitesoldiers 3blackcrows hangingman piercing"
        " darkcloudcover"
    ).split():
        put(f"cdl_{name}", ta(getattr(talib, f"CDL{name.upper()}"), *bars))
    high_before, low_before = lag(HIGH, 2), lag(LOW, 2)
    puts(
        "fvg",
        {
            "bull": rows(lambda low, high: low > high, LOW, high_before),
            "bear": rows(lambda high, low: high < low, HIGH, low_before),
            "bull_pct": rows(lambda low, high, c: max(low - high, 0) / c, LOW, high_before, CLOSE),
            "bear_pct": rows(lambda high, low, c: max(low - high, 0) / c, HIGH, low_before, CLOSE),
        },
    )


def structure():
    is_pivot = lambda x, left: all(x[left] > other for at, other in enumerate(x) if at != left)
    for left, right in ((3, 3), (2, 4)):
        n = left + right + 1
        high = windows(lambda x: is_pivot(x, left), n, HIGH)
        low = windows(lambda x: is_pivot(x, left), n, [-x for x in LOW])
        puts(f"swing:{left}:{right}", {"high": high, "low": low})
        carried = []
        for flags, prices in ((high, HIGH), (low, LOW)):
            last, column = NAN, []
            for t, flag in enumerate(flags):
                last = prices[t - right] if flag == 1 else last
                column.append(last)
            carried.append(column)
        last_high, last_low = carried
        puts(f"last_pivot:{left}:{right}:0", {"high": last_high, "low": last_low})
        puts(
            f"sweep:{left}:{right}:0",
            {
                "bear": rows(lambda h, c, p: h > p > c, HIGH, CLOSE, last_high),
                "bull": rows(lambda l, c, p: l < p < c, LOW, CLOSE, last_low),
            },
        )
        bull = rows(lambda c, p: c > p, CLOSE, last_high)
        bear = rows(lambda c, p: c < p, CLOSE, last_low)
        puts(f"bos:{left}:{right}:0", {"bull": bull, "bear": bear})
        side, changes = 0, []
        for up, down in zip(bull, bear):
            now = 1 if up == 1 else -1 if down == 1 else 0
            changes.append(now if now and side == -now else 0)
            side = now or side
        put(f"choch:{left}:{right}:0", changes)
    highest, lowest = windows(max, 10, HIGH), windows(min, 10, LOW)
    up = rows(lambda c, h: c > h, CLOSE, lag(highest, 1))
    puts("breakout:10", {"up": up, "down": rows(lambda c, l: c < l, CLOSE, lag(lowest, 1))})
    put("ob_dist:10", rows(lambda c, h, l: min((h - c) / c, (c - l) / c), CLOSE, highest, lowest))
    crosses = lambda c, o, c_before, o_before: c > o and c_before <= o_before
    put("crossup:close:open", rows(crosses, CLOSE, OPEN, lag(CLOSE, 1), lag(OPEN, 1)))


def sessions():
    vwap, levels = [], []
    start, before, day = 0, None, TIMES[0].date()
    for t in range(N):
        if TIMES[t].date() != day:
            before, start, day = range(start, t), t, TIMES[t].date()
        turnover = math.fsum(TYPICAL[row] * VOLUME[row] for row in range(start, t + 1))
        vwap.append(turnover / math.fsum(VOLUME[start : t + 1]))
        if before is None:
            levels.append([NAN] * 5)
        else:
            h, l, c = max(HIGH[row] for row in before), min(LOW[row] for row in before), CLOSE[before[-1]]
            p = (h + l + c) / 3
            levels.append([p, 2 * p - l, 2 * p - h, p + (h - l), p - (h - l)])
    put("vwap_day", vwap)
    puts("pivots", dict(zip(("p", "r1", "s1", "r2", "s2"), zip(*levels))))
    seconds = lambda time: time.hour * 3600 + time.minute * 60 + time.second
    for name, parts in (
        ("time_of_day", [seconds(time) / 86400 for time in TIMES]),
        ("day_of_week", [time.weekday() / 7 for time in TIMES]),
        ("month_of_year", [(time.month - 1) / 12 for time in TIMES]),
    ):
        puts(name, {"sin": [math.sin(math.tau * x) for x in parts], "cos": [math.cos(math.tau * x) for x in parts]})


def order_and_shape():
    put("median:close:20", windows(lambda x: quantile(x, 0.5), 20, CLOSE))
    put("quantile:close:20:0.25", windows(lambda x: quantile(x, 0.25), 20, CLOSE))
    put("quantile:high:50:0.7", windows(lambda x: quantile(x, 0.7), 50, HIGH))
    middle = lambda x: quantile(x, 0.5)
    put("mad:close:20", windows(lambda x: middle([abs(v - middle(x)) for v in x]), 20, CLOSE))
    put("pctrank:close:100", windows(lambda x: 100 * sum(v <= x[-1] for v in x) / len(x), 100, CLOSE))
    rank = lambda x: sum(v < x[-1] for v in x) + (sum(v == x[-1] for v in x) + 1) / 2
    put("rank:close:20", windows(rank, 20, CLOSE))

    def entropy_of(shares):
        return -math.fsum(p * math.log(p) for p in shares if p > 0)

    def entropy(x, bins):
        lowest, highest = min(x), max(x)
        if lowest == highest:
            return 0
        counts = np.histogram(x, bins=bins)[0]
        return entropy_of([count / len(x) for count in counts])

    put("entropy:volume:20:10", windows(lambda x: entropy(x, 10), 20, VOLUME))

    def hurst(x):
        x = [math.log(v) for v in x]
        lags = range(2, 20)
        spread = [math.log(std([b - a for a, b in zip(x, x[k:])], 0)) for k in lags]
        scale = [math.log(k) for k in lags]
        return codeviation(scale, spread) / codeviation(scale, scale)

    put("hurst:close:100:2:19", windows(hurst, 100, CLOSE))
    weights = [1.0]
    for k in range(1, 100):
        weights.append(-weights[-1] * (0.4 - k + 1) / k)
    difference = lambda x: math.fsum(w * math.log(v) for w, v in zip(weights, reversed(x)))
    put("ffd:close:0.4:100", windows(difference, 100, CLOSE))

    def profile(high, low, close, volume):
        lowest, highest = min(low), max(high)
        width = (highest - lowest) / 20
        bins = [[] for _ in range(20)]
        for c, v in zip(close, volume):
            bins[min(math.floor((c - lowest) / width), 19)].append(v)
        bins = [math.fsum(values) for values in bins]
        total = math.fsum(bins)
        fullest = bins.index(max(bins))
        first = last = fullest
        held = bins[fullest]
        while held < 0.7 * total:
            below = bins[first - 1] if first > 0 else -1
            above = bins[last + 1] if last < 19 else -1
            if above >= below:
                last, held = last + 1, held + above
            else:
                first, held = first - 1, held + below
        middle = lambda bin: lowest + (bin + 0.5) * width
        shares = [value / total for value in bins]
        return middle(fullest), middle(last), middle(first), max(shares), entropy_of(shares)

    of_rows = windows(profile, 96, HIGH, LOW, CLOSE, VOLUME)
    for at, output in enumerate(("poc", "vah", "val", "poc_share", "entropy")):
        put(f"profile:96:20:0.7:{output}", [x if x is NAN else x[at] for x in of_rows])

    def spectral_entropy(x):
        n, middle = len(x), mean(x)
        powers = []
        for k in range(1, n // 2 + 1):
            angles = [math.tau * (k * j % n) / n for j in range(n)]
            real = math.fsum((v - middle) * math.cos(a) for v, a in zip(x, angles))
            imaginary = math.fsum((v - middle) * math.sin(a) for v, a in zip(x, angles))
            powers.append(real**2 + imaginary**2)
        return entropy_of([power / math.fsum(powers) for power in powers])

    put("spectral_entropy:close:60", windows(spectral_entropy, 60, CLOSE))

    def ricker(x, width):
        middle = (len(x) - 1) / 2
        scale = 2 / (math.sqrt(3 * width) * math.pi**0.25)
        wave = lambda at: scale * (1 - (at / width) ** 2) * math.exp(-((at / width) ** 2) / 2)
        return math.fsum(v * wave(at - middle) for at, v in enumerate(x))

    put("ricker:r:3", windows(lambda x: ricker(x, 3), 31, COLUMNS["r"]))

    def greeks(x, sigma):
        days, rate = 30, 0.05
        years = days / 365
        spread = sigma * math.sqrt(years)
        d1 = (rate + sigma**2 / 2) * years / spread
        d2 = d1 - spread
        normal = lambda z: math.erfc(-z / math.sqrt(2)) / 2
        density = math.exp(-d1 * d1 / 2) / math.sqrt(math.tau)
        theta = -x * density * sigma / (2 * math.sqrt(years)) - rate * x * math.exp(-rate * years) * normal(d2)
        return normal(d1), density / (x * spread), theta, x * density * math.sqrt(years)

    of_rows = rows(greeks, CLOSE, COLUMNS["v"])
    for at, output in enumerate(("delta", "gamma", "theta", "vega")):
        put(f"greeks:close:v:30:0.05:{output}", [x if x is NAN else x[at] for x in of_rows])


def main():
    r = rows(lambda now, then: now / then - 1, CLOSE, lag(CLOSE, 1))
    put("r", r)
    put("v", [x * math.sqrt(24 * 365) for x in windows(std, 20, r)])
    for name, groups in (
        ("windows", (returns_and_sums, moments, extremes, volatility, order_and_shape)),
        ("bars", (averages, oscillators, volume, candles, structure, sessions)),
    ):
        written = len(COLUMNS) if name != "windows" else 0
        for group in groups:
            group()
        columns = dict(list(COLUMNS.items())[written:])
        with open(HERE / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            file.write(",".join(columns) + "\n")
            for row in zip(*columns.values()):
                file.write(",".join("" if math.isnan(x) else f"{x:.17g}" for x in row) + "\n")


if __name__ == "__main__":
    main()
