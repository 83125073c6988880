//! What is compared: the same indicator with the same parameters in each library.

use natron_kernels::{bars::BarColumns, indicators::program::Input};
use ta_lib::{Core, MAType};
use vector_ta::indicators::*;

/// Where a peer writes: three columns of numbers and one of whole numbers, each as long as the market.
pub type Out<'a> = ([&'a mut [f64]; 3], &'a mut [i32]);

/// A peer's run.
pub type Run<P> = fn(&P, &BarColumns, Out<'_>) -> Result<(), String>;

/// One indicator.
pub struct Case {
    pub label: &'static str,
    pub name: &'static str,
    pub series: &'static [Input],
    pub parameters: &'static [f64],
    pub ta_lib: Option<Run<Core>>,
    pub vector_ta: Option<Run<()>>,
}

impl Case {
    /// Of our indicator's outputs, those that the peers compute too.
    pub fn outputs(&self) -> Option<&'static [&'static str]> {
        match self.name {
            "bbands" => Some(&["upper", "mid", "lower"]),
            "linreg" => Some(&["slope"]),
            _ => None,
        }
    }
}

/// A value or an error in words.
fn said<T, E: std::fmt::Debug>(result: Result<T, E>) -> Result<(), String> {
    result.map(|_| ()).map_err(|error| format!("{error:?}"))
}

macro_rules! ta_lib {
    (|$core:ident, $m:ident, $last:ident, $a:ident, $b:ident, $c:ident, $i:ident| $call:expr) => {
        Some(|$core, $m, ([$a, $b, $c], $i)| {
            let $last = $m.close.len() - 1;
            let _ = (&$a, &$b, &$c, &$i);
            said($call)
        })
    };
}

macro_rules! vector_ta {
    (|$m:ident, $a:ident, $b:ident, $c:ident| $call:expr) => {
        Some(|(), $m, ([$a, $b, $c], _)| {
            let _ = (&$a, &$b, &$c);
            said($call)
        })
    };
}

/// All of them.
pub const CASES: &[Case] = &[
    Case {
        label: "sma 20",
        name: "sma",
        series: &[Input::Close],
        parameters: &[20.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.sma(0, last, &m.close, 20, a)),
        vector_ta: vector_ta!(|m, a, b, c| moving_averages::sma::sma_into(
            &moving_averages::sma::SmaInput::from_slice(
                &m.close,
                moving_averages::sma::SmaParams { period: Some(20) }
            ),
            a
        )),
    },
    Case {
        label: "ema 20",
        name: "ema",
        series: &[Input::Close],
        parameters: &[20.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.ema(0, last, &m.close, 20, a)),
        vector_ta: vector_ta!(|m, a, b, c| moving_averages::ema::ema_into(
            &moving_averages::ema::EmaInput::from_slice(
                &m.close,
                moving_averages::ema::EmaParams { period: Some(20) }
            ),
            a
        )),
    },
    Case {
        label: "rma 14",
        name: "rma",
        series: &[Input::Close],
        parameters: &[14.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.rma(0, last, &m.close, 14, a)),
        vector_ta: vector_ta!(|m, a, b, c| moving_averages::wilders::wilders_into(
            &moving_averages::wilders::WildersInput::from_slice(
                &m.close,
                moving_averages::wilders::WildersParams { period: Some(14) }
            ),
            a
        )),
    },
    Case {
        label: "wma 20",
        name: "wma",
        series: &[Input::Close],
        parameters: &[20.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.wma(0, last, &m.close, 20, a)),
        vector_ta: vector_ta!(|m, a, b, c| moving_averages::wma::wma_into(
            &moving_averages::wma::WmaInput::from_slice(
                &m.close,
                moving_averages::wma::WmaParams { period: Some(20) }
            ),
            a
        )),
    },
    Case {
        label: "trima 20",
        name: "trima",
        series: &[Input::Close],
        parameters: &[20.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.trima(0, last, &m.close, 20, a)),
        vector_ta: vector_ta!(|m, a, b, c| moving_averages::trima::trima_into(
            &moving_averages::trima::TrimaInput::from_slice(
                &m.close,
                moving_averages::trima::TrimaParams { period: Some(20) }
            ),
            a
        )),
    },
    Case {
        label: "hma 20",
        name: "hma",
        series: &[Input::Close],
        parameters: &[20.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.hma(0, last, &m.close, 20, a)),
        vector_ta: vector_ta!(|m, a, b, c| moving_averages::hma::hma_into(
            &moving_averages::hma::HmaInput::from_slice(
                &m.close,
                moving_averages::hma::HmaParams { period: Some(20) }
            ),
            a
        )),
    },
    Case {
        label: "dema 20",
        name: "dema",
        series: &[Input::Close],
        parameters: &[20.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.dema(0, last, &m.close, 20, a)),
        vector_ta: vector_ta!(|m, a, b, c| moving_averages::dema::dema_into(
            &moving_averages::dema::DemaInput::from_slice(
                &m.close,
                moving_averages::dema::DemaParams { period: Some(20) }
            ),
            a
        )),
    },
    Case {
        label: "tema 20",
        name: "tema",
        series: &[Input::Close],
        parameters: &[20.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.tema(0, last, &m.close, 20, a)),
        vector_ta: vector_ta!(|m, a, b, c| moving_averages::tema::tema_into(
            &moving_averages::tema::TemaInput::from_slice(
                &m.close,
                moving_averages::tema::TemaParams { period: Some(20) }
            ),
            a
        )),
    },
    Case {
        label: "t3 5 0.7",
        name: "t3",
        series: &[Input::Close],
        parameters: &[5.0, 0.7],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.t3(0, last, &m.close, 5, 0.7, a)),
        vector_ta: vector_ta!(|m, a, b, c| moving_averages::tilson::tilson_into(
            &moving_averages::tilson::TilsonInput::from_slice(
                &m.close,
                moving_averages::tilson::TilsonParams {
                    period: Some(5),
                    volume_factor: Some(0.7)
                }
            ),
            a
        )),
    },
    Case {
        label: "kama 10",
        name: "kama",
        series: &[Input::Close],
        parameters: &[10.0, 2.0, 30.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.kama(0, last, &m.close, 10, a)),
        vector_ta: vector_ta!(|m, a, b, c| moving_averages::kama::kama_into(
            &moving_averages::kama::KamaInput::from_slice(
                &m.close,
                moving_averages::kama::KamaParams { period: Some(10) }
            ),
            a
        )),
    },
    Case {
        label: "vwma 20",
        name: "vwma",
        series: &[Input::Close],
        parameters: &[20.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.vwma(0, last, &m.close, &m.volume, 20, a)),
        vector_ta: None,
    },
    Case {
        label: "rsi 14",
        name: "rsi",
        series: &[Input::Close],
        parameters: &[14.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.rsi(0, last, &m.close, 14, a)),
        vector_ta: vector_ta!(|m, a, b, c| rsi::rsi_into(
            &rsi::RsiInput::from_slice(&m.close, rsi::RsiParams { period: Some(14) }),
            a
        )),
    },
    Case {
        label: "cmo 14",
        name: "cmo",
        series: &[Input::Close],
        parameters: &[14.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.cmo(0, last, &m.close, 14, a)),
        vector_ta: vector_ta!(|m, a, b, c| cmo::cmo_into(
            &cmo::CmoInput::from_slice(&m.close, cmo::CmoParams { period: Some(14) }),
            a
        )),
    },
    Case {
        label: "stochrsi 14 14 3",
        name: "stochrsi",
        series: &[Input::Close],
        parameters: &[14.0, 14.0, 3.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.stochrsi(
            0,
            last,
            &m.close,
            14,
            14,
            3,
            MAType::SMA,
            a,
            b
        )),
        vector_ta: vector_ta!(|m, a, b, c| srsi::srsi_into(
            &srsi::SrsiInput::from_slice(
                &m.close,
                srsi::SrsiParams {
                    rsi_period: Some(14),
                    stoch_period: Some(14),
                    k: Some(1),
                    d: Some(3),
                    source: None
                }
            ),
            a,
            b
        )),
    },
    Case {
        label: "macd 12 26 9",
        name: "macd",
        series: &[Input::Close],
        parameters: &[12.0, 26.0, 9.0],
        ta_lib: ta_lib!(
            |core, m, last, a, b, c, i| core.macd(0, last, &m.close, 12, 26, 9, a, b, c)
        ),
        vector_ta: vector_ta!(|m, a, b, c| macd::macd_into(
            &macd::MacdInput::from_slice(
                &m.close,
                macd::MacdParams {
                    fast_period: Some(12),
                    slow_period: Some(26),
                    signal_period: Some(9),
                    ma_type: None
                }
            ),
            a,
            b,
            c
        )),
    },
    Case {
        label: "ppo 12 26",
        name: "ppo",
        series: &[Input::Close],
        parameters: &[12.0, 26.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.ppo(
            0,
            last,
            &m.close,
            12,
            26,
            MAType::EMA,
            a
        )),
        vector_ta: None,
    },
    Case {
        label: "apo 12 26",
        name: "apo",
        series: &[Input::Close],
        parameters: &[12.0, 26.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.apo(
            0,
            last,
            &m.close,
            12,
            26,
            MAType::EMA,
            a
        )),
        vector_ta: vector_ta!(|m, a, b, c| apo::apo_into(
            &apo::ApoInput::from_slice(
                &m.close,
                apo::ApoParams {
                    short_period: Some(12),
                    long_period: Some(26)
                }
            ),
            a
        )),
    },
    Case {
        label: "trix 15",
        name: "trix",
        series: &[Input::Close],
        parameters: &[15.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.trix(0, last, &m.close, 15, a)),
        vector_ta: None,
    },
    Case {
        label: "roc 10",
        name: "roc",
        series: &[Input::Close],
        parameters: &[10.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.roc(0, last, &m.close, 10, a)),
        vector_ta: vector_ta!(|m, a, b, c| roc::roc_into(
            &roc::RocInput::from_slice(&m.close, roc::RocParams { period: Some(10) }),
            a
        )),
    },
    Case {
        label: "mom 10",
        name: "mom",
        series: &[Input::Close],
        parameters: &[10.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.mom(0, last, &m.close, 10, a)),
        vector_ta: vector_ta!(|m, a, b, c| mom::mom_into(
            &mom::MomInput::from_slice(&m.close, mom::MomParams { period: Some(10) }),
            a
        )),
    },
    Case {
        label: "bop",
        name: "bop",
        series: &[],
        parameters: &[],
        ta_lib: ta_lib!(
            |core, m, last, a, b, c, i| core.bop(0, last, &m.open, &m.high, &m.low, &m.close, a)
        ),
        vector_ta: vector_ta!(|m, a, b, c| bop::bop_into(
            &bop::BopInput::from_slices(
                &m.open,
                &m.high,
                &m.low,
                &m.close,
                bop::BopParams::default()
            ),
            a
        )),
    },
    Case {
        label: "cci 20",
        name: "cci",
        series: &[],
        parameters: &[20.0],
        ta_lib: ta_lib!(
            |core, m, last, a, b, c, i| core.cci(0, last, &m.high, &m.low, &m.close, 20, a)
        ),
        vector_ta: vector_ta!(|m, a, b, c| {
            for t in 0..m.close.len() {
                c[t] = (m.high[t] + m.low[t] + m.close[t]) / 3.0;
            }
            cci::cci_into(
                &cci::CciInput::from_slice(c, cci::CciParams { period: Some(20) }),
                a,
            )
        }),
    },
    Case {
        label: "mfi 14",
        name: "mfi",
        series: &[],
        parameters: &[14.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core
            .mfi(0, last, &m.high, &m.low, &m.close, &m.volume, 14, a)),
        vector_ta: vector_ta!(|m, a, b, c| {
            for t in 0..m.close.len() {
                c[t] = (m.high[t] + m.low[t] + m.close[t]) / 3.0;
            }
            mfi::mfi_into(
                &mfi::MfiInput::from_slices(c, &m.volume, mfi::MfiParams { period: Some(14) }),
                a,
            )
        }),
    },
    Case {
        label: "willr 14",
        name: "willr",
        series: &[],
        parameters: &[14.0],
        ta_lib: ta_lib!(
            |core, m, last, a, b, c, i| core.willr(0, last, &m.high, &m.low, &m.close, 14, a)
        ),
        vector_ta: vector_ta!(|m, a, b, c| willr::willr_into(
            a,
            &willr::WillrInput::from_slices(
                &m.high,
                &m.low,
                &m.close,
                willr::WillrParams { period: Some(14) }
            )
        )),
    },
    Case {
        label: "stoch 14 3 3",
        name: "stoch",
        series: &[],
        parameters: &[14.0, 3.0, 3.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.stoch(
            0,
            last,
            &m.high,
            &m.low,
            &m.close,
            14,
            3,
            MAType::SMA,
            3,
            MAType::SMA,
            a,
            b
        )),
        vector_ta: vector_ta!(|m, a, b, c| stoch::stoch_into(
            &stoch::StochInput::from_slices(
                &m.high,
                &m.low,
                &m.close,
                stoch::StochParams {
                    fastk_period: Some(14),
                    slowk_period: Some(3),
                    slowk_ma_type: None,
                    slowd_period: Some(3),
                    slowd_ma_type: None
                }
            ),
            a,
            b
        )),
    },
    Case {
        label: "stochf 14 3",
        name: "stochf",
        series: &[],
        parameters: &[14.0, 3.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.stochf(
            0,
            last,
            &m.high,
            &m.low,
            &m.close,
            14,
            3,
            MAType::SMA,
            a,
            b
        )),
        vector_ta: vector_ta!(|m, a, b, c| stochf::stochf_into(
            &stochf::StochfInput::from_slices(
                &m.high,
                &m.low,
                &m.close,
                stochf::StochfParams {
                    fastk_period: Some(14),
                    fastd_period: Some(3),
                    fastd_matype: None
                }
            ),
            a,
            b
        )),
    },
    Case {
        label: "ultosc 7 14 28",
        name: "ultosc",
        series: &[],
        parameters: &[7.0, 14.0, 28.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core
            .ultosc(0, last, &m.high, &m.low, &m.close, 7, 14, 28, a)),
        vector_ta: vector_ta!(|m, a, b, c| ultosc::ultosc_into(
            &ultosc::UltOscInput::from_slices(
                &m.high,
                &m.low,
                &m.close,
                ultosc::UltOscParams {
                    timeperiod1: Some(7),
                    timeperiod2: Some(14),
                    timeperiod3: Some(28)
                }
            ),
            a
        )),
    },
    Case {
        label: "aroon 14",
        name: "aroon",
        series: &[],
        parameters: &[14.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.aroon(0, last, &m.high, &m.low, 14, a, b)),
        vector_ta: vector_ta!(|m, a, b, c| aroon::aroon_into(
            &aroon::AroonInput::from_slices_hl(
                &m.high,
                &m.low,
                aroon::AroonParams { length: Some(14) }
            ),
            a,
            b
        )),
    },
    Case {
        label: "awesome 5 34",
        name: "awesome",
        series: &[],
        parameters: &[5.0, 34.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.ao(0, last, &m.high, &m.low, 5, 34, a)),
        vector_ta: None,
    },
    Case {
        label: "tr",
        name: "tr",
        series: &[],
        parameters: &[],
        ta_lib: ta_lib!(
            |core, m, last, a, b, c, i| core.trange(0, last, &m.high, &m.low, &m.close, a)
        ),
        vector_ta: None,
    },
    Case {
        label: "atr 14",
        name: "atr",
        series: &[],
        parameters: &[14.0],
        ta_lib: ta_lib!(
            |core, m, last, a, b, c, i| core.atr(0, last, &m.high, &m.low, &m.close, 14, a)
        ),
        vector_ta: vector_ta!(|m, a, b, c| atr::atr_into(
            &atr::AtrInput::from_slices(
                &m.high,
                &m.low,
                &m.close,
                atr::AtrParams { length: Some(14) }
            ),
            a
        )),
    },
    Case {
        label: "natr 14",
        name: "natr",
        series: &[],
        parameters: &[14.0],
        ta_lib: ta_lib!(
            |core, m, last, a, b, c, i| core.natr(0, last, &m.high, &m.low, &m.close, 14, a)
        ),
        vector_ta: None,
    },
    Case {
        label: "bbands 20 2 (bands)",
        name: "bbands",
        series: &[Input::Close],
        parameters: &[20.0, 2.0, 0.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.bbands(
            0,
            last,
            &m.close,
            20,
            2.0,
            2.0,
            MAType::SMA,
            a,
            b,
            c
        )),
        vector_ta: vector_ta!(|m, a, b, c| bollinger_bands::bollinger_bands_into(
            &bollinger_bands::BollingerBandsInput::from_slice(
                &m.close,
                bollinger_bands::BollingerBandsParams {
                    period: Some(20),
                    devup: Some(2.0),
                    devdn: Some(2.0),
                    matype: None,
                    devtype: None
                }
            ),
            a,
            b,
            c
        )),
    },
    Case {
        label: "std 20",
        name: "std",
        series: &[Input::Close],
        parameters: &[20.0, 0.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.stddev(0, last, &m.close, 20, 1.0, a)),
        vector_ta: vector_ta!(|m, a, b, c| stddev::stddev_into(
            &stddev::StdDevInput::from_slice(
                &m.close,
                stddev::StdDevParams {
                    period: Some(20),
                    nbdev: Some(1.0)
                }
            ),
            a
        )),
    },
    Case {
        label: "var 20",
        name: "var",
        series: &[Input::Close],
        parameters: &[20.0, 0.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.var(0, last, &m.close, 20, 1.0, a)),
        vector_ta: None,
    },
    Case {
        label: "zscore 20",
        name: "zscore",
        series: &[Input::Close],
        parameters: &[20.0, 1.0],
        ta_lib: None,
        vector_ta: vector_ta!(|m, a, b, c| zscore::zscore_into(
            &zscore::ZscoreInput::from_slice(
                &m.close,
                zscore::ZscoreParams {
                    period: Some(20),
                    ma_type: None,
                    nbdev: Some(1.0),
                    devtype: None
                }
            ),
            a
        )),
    },
    Case {
        label: "skew 20",
        name: "skew",
        series: &[Input::Close],
        parameters: &[20.0],
        ta_lib: None,
        vector_ta: None,
    },
    Case {
        label: "kurt 20",
        name: "kurt",
        series: &[Input::Close],
        parameters: &[20.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.kurtosis(0, last, &m.close, 20, a)),
        vector_ta: None,
    },
    Case {
        label: "avgdev 20",
        name: "avgdev",
        series: &[Input::Close],
        parameters: &[20.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.avgdev(0, last, &m.close, 20, a)),
        vector_ta: None,
    },
    Case {
        label: "linreg 20 (slope)",
        name: "linreg",
        series: &[Input::Close],
        parameters: &[20.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.linearreg_slope(0, last, &m.close, 20, a)),
        vector_ta: vector_ta!(|m, a, b, c| linearreg_slope::linearreg_slope_into(
            &linearreg_slope::LinearRegSlopeInput::from_slice(
                &m.close,
                linearreg_slope::LinearRegSlopeParams { period: Some(20) }
            ),
            a
        )),
    },
    Case {
        label: "corr 20",
        name: "corr",
        series: &[Input::Close, Input::Volume],
        parameters: &[20.0],
        ta_lib: ta_lib!(
            |core, m, last, a, b, c, i| core.correl(0, last, &m.close, &m.volume, 20, a)
        ),
        vector_ta: None,
    },
    Case {
        label: "beta 20",
        name: "beta",
        series: &[Input::Close, Input::Volume],
        parameters: &[20.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.beta(0, last, &m.close, &m.volume, 20, a)),
        vector_ta: None,
    },
    Case {
        label: "autocorr 20 1",
        name: "autocorr",
        series: &[Input::Close],
        parameters: &[20.0, 1.0],
        ta_lib: None,
        vector_ta: None,
    },
    Case {
        label: "max 20",
        name: "max",
        series: &[Input::Close],
        parameters: &[20.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.max(0, last, &m.close, 20, a)),
        vector_ta: None,
    },
    Case {
        label: "max 200",
        name: "max",
        series: &[Input::Close],
        parameters: &[200.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.max(0, last, &m.close, 200, a)),
        vector_ta: None,
    },
    Case {
        label: "argmax 20",
        name: "argmax",
        series: &[Input::Close],
        parameters: &[20.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.maxindex(0, last, &m.close, 20, i)),
        vector_ta: None,
    },
    Case {
        label: "donchian 20",
        name: "donchian",
        series: &[],
        parameters: &[20.0],
        ta_lib: ta_lib!(
            |core, m, last, a, b, c, i| core.donchian(0, last, &m.high, &m.low, 20, a, b, c)
        ),
        vector_ta: vector_ta!(|m, a, b, c| donchian::donchian_into(
            &donchian::DonchianInput::from_slices(
                &m.high,
                &m.low,
                donchian::DonchianParams { period: Some(20) }
            ),
            a,
            b,
            c
        )),
    },
    Case {
        label: "kc 20 14 2",
        name: "kc",
        series: &[],
        parameters: &[20.0, 14.0, 2.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core
            .kc(0, last, &m.high, &m.low, &m.close, 20, 14, 2.0, a, b, c)),
        vector_ta: None,
    },
    Case {
        label: "keltner 20 10 2",
        name: "keltner",
        series: &[],
        parameters: &[20.0, 10.0, 2.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core
            .kc(0, last, &m.high, &m.low, &m.close, 20, 10, 2.0, a, b, c)),
        vector_ta: None,
    },
    Case {
        label: "chop 14",
        name: "chop",
        series: &[],
        parameters: &[14.0],
        ta_lib: ta_lib!(
            |core, m, last, a, b, c, i| core.chop(0, last, &m.high, &m.low, &m.close, 14, a)
        ),
        vector_ta: vector_ta!(|m, a, b, c| chop::chop_into(
            &chop::ChopInput::from_slices(
                &m.high,
                &m.low,
                &m.close,
                chop::ChopParams {
                    period: Some(14),
                    scalar: None,
                    drift: None
                }
            ),
            a
        )),
    },
    Case {
        label: "vortex 14",
        name: "vortex",
        series: &[],
        parameters: &[14.0],
        ta_lib: ta_lib!(
            |core, m, last, a, b, c, i| core.vortex(0, last, &m.high, &m.low, &m.close, 14, a, b)
        ),
        vector_ta: None,
    },
    Case {
        label: "parkinson 20",
        name: "parkinson",
        series: &[],
        parameters: &[20.0],
        ta_lib: None,
        vector_ta: vector_ta!(
            |m, a, b, c| parkinson_volatility::parkinson_volatility_into(
                &parkinson_volatility::ParkinsonVolatilityInput::from_slices(
                    &m.high,
                    &m.low,
                    parkinson_volatility::ParkinsonVolatilityParams { period: Some(20) }
                ),
                a,
                b
            )
        ),
    },
    Case {
        label: "garman_klass 20",
        name: "garman_klass",
        series: &[],
        parameters: &[20.0],
        ta_lib: None,
        vector_ta: vector_ta!(
            |m, a, b, c| garman_klass_volatility::garman_klass_volatility_into(
                &garman_klass_volatility::GarmanKlassVolatilityInput::from_slices(
                    &m.open,
                    &m.high,
                    &m.low,
                    &m.close,
                    garman_klass_volatility::GarmanKlassVolatilityParams { lookback: Some(20) }
                ),
                a
            )
        ),
    },
    Case {
        label: "rogers_satchell 20",
        name: "rogers_satchell",
        series: &[],
        parameters: &[20.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core
            .rogerssatchell(0, last, &m.open, &m.high, &m.low, &m.close, 20, 1.0, a)),
        vector_ta: None,
    },
    Case {
        label: "yang_zhang 20",
        name: "yang_zhang",
        series: &[],
        parameters: &[20.0],
        ta_lib: None,
        vector_ta: vector_ta!(
            |m, a, b, c| yang_zhang_volatility::yang_zhang_volatility_into(
                &yang_zhang_volatility::YangZhangVolatilityInput::from_slices(
                    &m.open,
                    &m.high,
                    &m.low,
                    &m.close,
                    yang_zhang_volatility::YangZhangVolatilityParams {
                        lookback: Some(20),
                        k_override: None,
                        k: None
                    }
                ),
                a,
                b
            )
        ),
    },
    Case {
        label: "di 14",
        name: "di",
        series: &[],
        parameters: &[14.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core
            .plus_di(0, last, &m.high, &m.low, &m.close, 14, a)
            .and_then(|_| core.minus_di(0, last, &m.high, &m.low, &m.close, 14, b))),
        vector_ta: vector_ta!(|m, a, b, c| di::di_into(
            &di::DiInput::from_slices(&m.high, &m.low, &m.close, di::DiParams { period: Some(14) }),
            a,
            b
        )),
    },
    Case {
        label: "dx 14",
        name: "dx",
        series: &[],
        parameters: &[14.0],
        ta_lib: ta_lib!(
            |core, m, last, a, b, c, i| core.dx(0, last, &m.high, &m.low, &m.close, 14, a)
        ),
        vector_ta: None,
    },
    Case {
        label: "adx 14",
        name: "adx",
        series: &[],
        parameters: &[14.0],
        ta_lib: ta_lib!(
            |core, m, last, a, b, c, i| core.adx(0, last, &m.high, &m.low, &m.close, 14, a)
        ),
        vector_ta: vector_ta!(|m, a, b, c| adx::adx_into(
            &adx::AdxInput::from_slices(
                &m.high,
                &m.low,
                &m.close,
                adx::AdxParams { period: Some(14) }
            ),
            a
        )),
    },
    Case {
        label: "adxr 14",
        name: "adxr",
        series: &[],
        parameters: &[14.0],
        ta_lib: ta_lib!(
            |core, m, last, a, b, c, i| core.adxr(0, last, &m.high, &m.low, &m.close, 14, a)
        ),
        vector_ta: vector_ta!(|m, a, b, c| adxr::adxr_into(
            &adxr::AdxrInput::from_slices(
                &m.high,
                &m.low,
                &m.close,
                adxr::AdxrParams { period: Some(14) }
            ),
            a
        )),
    },
    Case {
        label: "sar 0.02 0.2",
        name: "sar",
        series: &[],
        parameters: &[0.02, 0.2],
        ta_lib: ta_lib!(
            |core, m, last, a, b, c, i| core.sar(0, last, &m.high, &m.low, 0.02, 0.2, a)
        ),
        vector_ta: vector_ta!(|m, a, b, c| sar::sar_into(
            &sar::SarInput::from_slices(
                &m.high,
                &m.low,
                sar::SarParams {
                    acceleration: Some(0.02),
                    maximum: Some(0.2)
                }
            ),
            a
        )),
    },
    Case {
        label: "supertrend 10 3",
        name: "supertrend",
        series: &[],
        parameters: &[10.0, 3.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core
            .supertrend(0, last, &m.high, &m.low, &m.close, 10, 3.0, a, i)),
        vector_ta: vector_ta!(|m, a, b, c| supertrend::supertrend_into(
            &supertrend::SuperTrendInput::from_slices(
                &m.high,
                &m.low,
                &m.close,
                supertrend::SuperTrendParams {
                    period: Some(10),
                    factor: Some(3.0)
                }
            ),
            a,
            b
        )),
    },
    Case {
        label: "obv",
        name: "obv",
        series: &[],
        parameters: &[],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.obv(0, last, &m.close, &m.volume, a)),
        vector_ta: vector_ta!(|m, a, b, c| obv::obv_into(
            &obv::ObvInput::from_slices(&m.close, &m.volume, obv::ObvParams::default()),
            a
        )),
    },
    Case {
        label: "ad",
        name: "ad",
        series: &[],
        parameters: &[],
        ta_lib: ta_lib!(
            |core, m, last, a, b, c, i| core.ad(0, last, &m.high, &m.low, &m.close, &m.volume, a)
        ),
        vector_ta: vector_ta!(|m, a, b, c| ad::ad_into(
            &ad::AdInput::from_slices(
                &m.high,
                &m.low,
                &m.close,
                &m.volume,
                ad::AdParams::default()
            ),
            a
        )),
    },
    Case {
        label: "adosc 3 10",
        name: "adosc",
        series: &[],
        parameters: &[3.0, 10.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core
            .adosc(0, last, &m.high, &m.low, &m.close, &m.volume, 3, 10, a)),
        vector_ta: vector_ta!(|m, a, b, c| adosc::adosc_into(
            &adosc::AdoscInput::from_slices(
                &m.high,
                &m.low,
                &m.close,
                &m.volume,
                adosc::AdoscParams {
                    short_period: Some(3),
                    long_period: Some(10)
                }
            ),
            a
        )),
    },
    Case {
        label: "vpt",
        name: "vpt",
        series: &[],
        parameters: &[],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.pvt(0, last, &m.close, &m.volume, a)),
        vector_ta: vector_ta!(|m, a, b, c| vpt::vpt_into(
            &vpt::VptInput::from_slices(&m.close, &m.volume),
            a
        )),
    },
    Case {
        label: "efi 13",
        name: "efi",
        series: &[],
        parameters: &[13.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.efi(0, last, &m.close, &m.volume, 13, a)),
        vector_ta: vector_ta!(|m, a, b, c| efi::efi_into(
            &efi::EfiInput::from_slices(&m.close, &m.volume, efi::EfiParams { period: Some(13) }),
            a
        )),
    },
    Case {
        label: "cmf 20",
        name: "cmf",
        series: &[],
        parameters: &[20.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core
            .cmf(0, last, &m.high, &m.low, &m.close, &m.volume, 20, a)),
        vector_ta: None,
    },
    Case {
        label: "median 20",
        name: "median",
        series: &[Input::Close],
        parameters: &[20.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.median(0, last, &m.close, 20, a)),
        vector_ta: None,
    },
    Case {
        label: "quantile 20 0.25",
        name: "quantile",
        series: &[Input::Close],
        parameters: &[20.0, 0.25],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.percentile(0, last, &m.close, 20, 25.0, a)),
        vector_ta: None,
    },
    Case {
        label: "mad 20",
        name: "mad",
        series: &[Input::Close],
        parameters: &[20.0],
        ta_lib: None,
        vector_ta: None,
    },
    Case {
        label: "pctrank 100",
        name: "pctrank",
        series: &[Input::Close],
        parameters: &[100.0],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core.percentrank(0, last, &m.close, 100, a)),
        vector_ta: None,
    },
    Case {
        label: "entropy 20 10",
        name: "entropy",
        series: &[Input::Volume],
        parameters: &[20.0, 10.0],
        ta_lib: None,
        vector_ta: None,
    },
    Case {
        label: "hurst 100",
        name: "hurst",
        series: &[Input::Close],
        parameters: &[100.0, 2.0, 19.0],
        ta_lib: None,
        vector_ta: None,
    },
    Case {
        label: "ffd 0.4 100",
        name: "ffd",
        series: &[Input::Close],
        parameters: &[0.4, 100.0],
        ta_lib: None,
        vector_ta: None,
    },
    Case {
        label: "profile 96 20 0.7",
        name: "profile",
        series: &[],
        parameters: &[96.0, 20.0, 0.7],
        ta_lib: None,
        vector_ta: None,
    },
    Case {
        label: "cdl_doji",
        name: "cdl_doji",
        series: &[],
        parameters: &[],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core
            .cdldoji(0, last, &m.open, &m.high, &m.low, &m.close, i)),
        vector_ta: None,
    },
    Case {
        label: "cdl_engulfing",
        name: "cdl_engulfing",
        series: &[],
        parameters: &[],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core
            .cdlengulfing(0, last, &m.open, &m.high, &m.low, &m.close, i)),
        vector_ta: None,
    },
    Case {
        label: "cdl_hammer",
        name: "cdl_hammer",
        series: &[],
        parameters: &[],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core
            .cdlhammer(0, last, &m.open, &m.high, &m.low, &m.close, i)),
        vector_ta: None,
    },
    Case {
        label: "cdl_shootingstar",
        name: "cdl_shootingstar",
        series: &[],
        parameters: &[],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core
            .cdlshootingstar(0, last, &m.open, &m.high, &m.low, &m.close, i)),
        vector_ta: None,
    },
    Case {
        label: "cdl_harami",
        name: "cdl_harami",
        series: &[],
        parameters: &[],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core
            .cdlharami(0, last, &m.open, &m.high, &m.low, &m.close, i)),
        vector_ta: None,
    },
    Case {
        label: "cdl_3whitesoldiers",
        name: "cdl_3whitesoldiers",
        series: &[],
        parameters: &[],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core
            .cdl3whitesoldiers(0, last, &m.open, &m.high, &m.low, &m.close, i)),
        vector_ta: None,
    },
    Case {
        label: "cdl_3blackcrows",
        name: "cdl_3blackcrows",
        series: &[],
        parameters: &[],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core
            .cdl3blackcrows(0, last, &m.open, &m.high, &m.low, &m.close, i)),
        vector_ta: None,
    },
    Case {
        label: "cdl_hangingman",
        name: "cdl_hangingman",
        series: &[],
        parameters: &[],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core
            .cdlhangingman(0, last, &m.open, &m.high, &m.low, &m.close, i)),
        vector_ta: None,
    },
    Case {
        label: "cdl_piercing",
        name: "cdl_piercing",
        series: &[],
        parameters: &[],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core
            .cdlpiercing(0, last, &m.open, &m.high, &m.low, &m.close, i)),
        vector_ta: None,
    },
    Case {
        label: "cdl_morningstar",
        name: "cdl_morningstar",
        series: &[],
        parameters: &[],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core
            .cdlmorningstar(0, last, &m.open, &m.high, &m.low, &m.close, 0.3, i)),
        vector_ta: None,
    },
    Case {
        label: "cdl_eveningstar",
        name: "cdl_eveningstar",
        series: &[],
        parameters: &[],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core
            .cdleveningstar(0, last, &m.open, &m.high, &m.low, &m.close, 0.3, i)),
        vector_ta: None,
    },
    Case {
        label: "cdl_darkcloudcover",
        name: "cdl_darkcloudcover",
        series: &[],
        parameters: &[],
        ta_lib: ta_lib!(|core, m, last, a, b, c, i| core
            .cdldarkcloudcover(0, last, &m.open, &m.high, &m.low, &m.close, 0.5, i)),
        vector_ta: None,
    },
    Case {
        label: "swing 3 3",
        name: "swing",
        series: &[],
        parameters: &[3.0, 3.0],
        ta_lib: None,
        vector_ta: None,
    },
];
