"""How report.html looks."""

STYLE = """
:root{color-scheme:light dark;--ink:#1c2330;--soft:#5c6675;--page:#f6f7f9;--card:#fff;--edge:#e2e6ec;--line:#2f6fde;--good:#137a4b;
--bad:#b3261e;--mark:#9a6700}
@media(prefers-color-scheme:dark){:root{--ink:#e7ebf2;--soft:#9aa5b5;--page:#11151b;--card:#1a2029;--edge:#2c3542;--line:#6ea0ff;
--good:#5fd39b;--bad:#ff8a80;--mark:#e8b84a}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:66rem;margin:0 auto;padding:2rem 1rem 4rem}
h1{margin:0;font-size:1.9rem;letter-spacing:-.02em;overflow-wrap:anywhere}
h2{margin:2.4rem 0 .8rem;font-size:1.15rem}
.under{color:var(--soft);margin:.2rem 0 0;overflow-wrap:anywhere}
.badge{display:inline-block;padding:.15rem .7rem;border-radius:1rem;border:1px solid currentColor;font-size:.85rem;font-weight:600}
.good{color:var(--good)}.bad{color:var(--bad)}.mark{color:var(--mark)}
.card{background:var(--card);border:1px solid var(--edge);border-radius:.8rem;padding:.9rem 1.1rem;margin:.7rem 0}
.card p{margin:.2rem 0 0}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,24rem),1fr));gap:1rem}
figure{margin:0;background:var(--card);border:1px solid var(--edge);border-radius:.8rem;padding:.5rem}
svg{display:block;width:100%;height:auto}
svg text{fill:var(--soft);font-size:11px;font-variant-numeric:tabular-nums}
svg .title{fill:var(--ink);font-size:13px;font-weight:600}svg .last{fill:var(--line);font-size:13px;font-weight:600}
.grid{stroke:var(--edge)}.line{fill:none;stroke:var(--line);stroke-width:2;stroke-linejoin:round}
.area{fill:var(--line);opacity:.1}.dot{fill:var(--line)}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--edge);border-radius:.8rem}
table{border-collapse:collapse;width:100%;font-size:.93rem}
th,td{padding:.5rem .9rem;text-align:left;border-top:1px solid var(--edge);vertical-align:top}
tr:first-child>*{border-top:0}
thead th{color:var(--soft);font-weight:600}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.curves+.under{margin-top:.6rem}.under+.curves{margin-top:.8rem}.bar{fill:var(--line);opacity:.75}
pre{margin:.2rem 0 0;font:.9em/1.45 ui-monospace,SFMono-Regular,Menlo,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
.prompt{color:var(--soft)}
.answers{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,14rem),1fr));gap:.4rem 1.2rem;margin-top:.7rem;padding-top:.7rem;border-top:1px solid var(--edge)}
td.hit{font-weight:700}
code{font-size:.85em;overflow-wrap:anywhere}
"""
