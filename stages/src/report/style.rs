//! How the page looks.

/// The style sheet. Colours are variables, once for light and once for dark.
pub(super) const STYLE: &str = r#"
:root{--page:#f7f7f5;--card:#fff;--ink:#16181d;--soft:#5a606b;--faint:#8a909b;--line:#e3e4e6;--grid:#ebecee;--s1:#2a6fdb;--s2:#d9622b;--s3:#0f8a68;--s4:#8a55c9;--muted:#8a909b;--good:#0b7a4b;--goodback:#e3f4ec;--bad:#b3261e;--badback:#fbe9e7;--flatback:#eef0f2;--heat:42,111,219;--shadow:0 1px 2px rgb(20 24 32/.05),0 4px 14px rgb(20 24 32/.04)}
:root[data-theme=dark]{--page:#111318;--card:#191c22;--ink:#eceef2;--soft:#a8afba;--faint:#7d8591;--line:#2b3038;--grid:#262a32;--s1:#6ea3f5;--s2:#f08c5a;--s3:#3fc59a;--s4:#b78df0;--muted:#7d8591;--good:#5bd19c;--goodback:#15332a;--bad:#ff8a80;--badback:#3b1f1f;--flatback:#262a32;--heat:110,163,245;--shadow:none}
@media (prefers-color-scheme:dark){:root:not([data-theme=light]){--page:#111318;--card:#191c22;--ink:#eceef2;--soft:#a8afba;--faint:#7d8591;--line:#2b3038;--grid:#262a32;--s1:#6ea3f5;--s2:#f08c5a;--s3:#3fc59a;--s4:#b78df0;--muted:#7d8591;--good:#5bd19c;--goodback:#15332a;--bad:#ff8a80;--badback:#3b1f1f;--flatback:#262a32;--heat:110,163,245;--shadow:none}}
:root{color-scheme:light dark}:root[data-theme=light]{color-scheme:light}:root[data-theme=dark]{color-scheme:dark}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1180px;margin:0 auto;padding:32px 24px 48px}
header{display:flex;gap:16px;align-items:flex-start;justify-content:space-between;margin:0 0 20px}
h1{font-size:30px;line-height:1.15;letter-spacing:-.02em;margin:0 0 6px;overflow-wrap:anywhere}
h2{font-size:19px;letter-spacing:-.01em;margin:0 0 4px}
h3{font-size:14px;margin:18px 0 6px;color:var(--soft);font-weight:600}
p{margin:0 0 10px}
.sub,.lead{color:var(--soft)}
.lead{max-width:78ch;margin-bottom:14px}
button{font:inherit;font-size:13px;color:var(--soft);background:var(--card);border:1px solid var(--line);border-radius:999px;padding:5px 13px;cursor:pointer;white-space:nowrap}
button:hover{color:var(--ink)}
button:focus-visible,summary:focus-visible{outline:2px solid var(--s1);outline-offset:2px}
section{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:22px 24px;margin:0 0 18px;box-shadow:var(--shadow)}
.verdict{font-size:17px;line-height:1.5;max-width:80ch;margin:0 0 18px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(138px,1fr));gap:12px}
.card{border:1px solid var(--line);border-radius:11px;padding:12px 14px;background:var(--page);min-width:0}
.card .what{font-size:12.5px;color:var(--soft)}
.card .value{font-size:25px;line-height:1.25;font-weight:650;letter-spacing:-.02em;margin:2px 0}
.card .more{font-size:12.5px;color:var(--soft);line-height:1.4}
.good{color:var(--good)}.bad{color:var(--bad)}
.badge{display:inline-block;font-size:12px;line-height:1;padding:4px 8px;border-radius:999px;background:var(--flatback);color:var(--soft);white-space:nowrap}
.badge.good{background:var(--goodback);color:var(--good)}.badge.bad{background:var(--badback);color:var(--bad)}
.scroll{overflow-x:auto;margin:0 -4px;padding:0 4px}
table{border-collapse:collapse;width:100%;font-size:13.5px}
th,td{padding:7px 10px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap;vertical-align:middle}
thead th{font-size:12px;font-weight:550;color:var(--soft);border-bottom-color:var(--faint)}
tbody th{font-weight:500;text-align:left}
thead th:first-child{text-align:left}
tbody tr:last-child>*{border-bottom:0}
tr.group th{padding-top:18px;font-size:13px;font-weight:650;border-bottom-color:var(--faint)}
td.none,.none{color:var(--faint)}
table.narrow{width:auto;min-width:min(100%,420px)}
.left td:nth-child(2){text-align:left}
.strip{position:relative;display:inline-block;width:150px;height:16px;vertical-align:middle}
.strip::before{content:"";position:absolute;left:0;right:0;top:7.5px;height:1px;background:var(--line)}
.strip i{position:absolute;top:5px;height:6px;border-radius:3px;background:var(--s1);opacity:.32}
.strip b{position:absolute;top:3px;width:10px;height:10px;margin-left:-5px;border-radius:50%;background:var(--s1)}
.strip u{position:absolute;top:1px;width:2px;height:14px;margin-left:-1px;background:var(--s2)}
.strip u.second{background:var(--s3)}
.legendline{display:flex;flex-wrap:wrap;gap:6px 18px;font-size:12.5px;color:var(--soft);margin:0 0 10px}
.legendline .strip{width:26px}
.chart{margin:0 0 8px}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:12.5px;color:var(--soft);min-height:4px;margin:0 0 6px}
.key{display:inline-flex;align-items:center;gap:6px}
.swatch{display:inline-block;width:16px;height:0;border-top:3px solid currentColor;border-radius:2px}
.swatch.dashed{width:18px;height:2px;border:0;background:repeating-linear-gradient(90deg,currentColor 0 4px,transparent 4px 7px)}
.frame{position:relative;margin:0 0 30px 58px;height:300px}
.medium .frame{height:220px}.small .frame{height:170px}
.plot{position:absolute;inset:0}
.plot svg{width:100%;height:100%;display:block;overflow:visible}
.grid{stroke:var(--grid);stroke-width:1;fill:none;vector-effect:non-scaling-stroke}
.reference{stroke:var(--faint);stroke-width:1;stroke-dasharray:3 3;fill:none;vector-effect:non-scaling-stroke}
.line{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round;stroke-linecap:round;vector-effect:non-scaling-stroke}
.line.dashed{stroke-width:1.4;stroke-dasharray:4 4}
.area{fill:currentColor;opacity:.13;stroke:none}
.dots{fill:none;stroke:currentColor;stroke-width:8;stroke-linecap:round;vector-effect:non-scaling-stroke}
.s1{color:var(--s1)}.s2{color:var(--s2)}.s3{color:var(--s3)}.s4{color:var(--s4)}.muted{color:var(--muted)}
.ty,.tx{position:absolute;font-size:11.5px;color:var(--soft);white-space:nowrap;line-height:1}
.ty{right:calc(100% + 8px);transform:translateY(50%)}
.tx{top:calc(100% + 7px);transform:translateX(-50%)}
.rule{position:absolute;top:0;bottom:0;width:1px;background:var(--faint);display:none;pointer-events:none}
.tip{position:absolute;top:6px;display:none;pointer-events:none;background:var(--card);border:1px solid var(--line);border-radius:9px;padding:7px 10px;font-size:12.5px;line-height:1.5;box-shadow:0 4px 18px rgb(0 0 0/.14);white-space:nowrap;z-index:2}
.tip .when{color:var(--soft)}
.tip div{display:flex;gap:8px;align-items:center}
.tip div span:last-child{margin-left:auto;padding-left:12px;font-weight:600}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:8px 32px}
.four{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,235px),1fr));gap:8px 28px}
.two>*,.four>*{min-width:0}
.heat td{text-align:center;border:2px solid var(--card);border-radius:6px;min-width:48px;padding:8px 4px}
.heat th{border:0;font-weight:500;padding:6px}
.heat thead th{text-align:center;border:0;font-size:11.5px;padding:6px 3px}
.graph svg{display:block;margin:6px auto 10px}
.edge{fill:none;stroke:var(--faint);stroke-width:1.4}
.node rect{fill:var(--page);stroke:var(--line);stroke-width:1.2}
.node text{text-anchor:middle;fill:var(--ink);font-size:13px;font-weight:600}
.node text.kind{fill:var(--soft);font-size:11px;font-weight:400}
details{border-top:1px solid var(--line);padding:9px 0}
summary{cursor:pointer;font-weight:550}
summary .kind{color:var(--soft);font-weight:400}
pre{overflow-x:auto;background:var(--page);border:1px solid var(--line);border-radius:9px;padding:10px 12px;font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;margin:8px 0}
code{font:12.5px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.note{border-left:3px solid var(--s2);background:var(--flatback);border-radius:0 9px 9px 0;padding:10px 14px;margin:0 0 14px;max-width:90ch}
footer{color:var(--soft);font-size:13.5px;padding:6px 4px;max-width:90ch}
@media (max-width:640px){main{padding:18px 12px 32px}section{padding:16px 14px;border-radius:12px}h1{font-size:24px}.verdict{font-size:15.5px}.cards{grid-template-columns:1fr 1fr;gap:9px}.card{padding:10px 11px}.card .value{font-size:20px}.frame{height:230px;margin-left:50px}.medium .frame{height:180px}.tx.minor{display:none}th,td{padding:6px 8px}.strip{width:110px}}
@media print{body{background:#fff}section{break-inside:avoid;box-shadow:none}button{display:none}}
"#;
