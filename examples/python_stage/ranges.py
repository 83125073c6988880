"""A stage in Python: how far each bar ranges, and the mean of the last `window_bars` ranges.

Input `candles` and output `ranges` are Arrow files whose paths stand in the request on standard input; `natron stages
command` describes all that the request holds. The mean of a window that is not full is missing: null, never NaN or 0.
"""

import json
import sys

import pyarrow as pa
import pyarrow.compute as pc

request = json.load(sys.stdin)
window = request["parameters"]["window_bars"]

with pa.memory_map(request["inputs"]["candles"][0]["path"]) as file:
    candles = pa.ipc.open_file(file).read_all()

relative_range = pc.divide(pc.subtract(candles["high"], candles["low"]), candles["close"])
values = relative_range.to_pylist()
means = [None] * (window - 1) + [sum(values[i - window : i]) / window for i in range(window, len(values) + 1)]
ranges = pa.table(
    {
        "ts_ns": candles["ts_ns"],
        "relative_range": relative_range,
        "mean_range": pa.array(means[: len(values)], pa.float64()),
    }
)

with pa.OSFile(request["outputs"]["ranges"]["path"], "wb") as file:
    with pa.ipc.new_file(file, ranges.schema) as writer:
        writer.write_table(ranges)

# Optional: progress and metrics go to descriptor 3, and whatever is printed to the log.
with open(3, "w") as messages:
    print(json.dumps({"progress": {"done": len(values), "total": len(values), "unit": "rows"}}), file=messages)
print(f"{len(values)} bars, windows of {window}")
