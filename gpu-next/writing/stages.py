"""stages.py ARGUMENTS OF benchmarks.index_speed: the benchmark, and of each writing all stages on a line of time, and what none of them covers."""
import contextlib, os, sys, threading, time
from concurrent.futures import Future
from sae_core.index import assemble, gathered, in_processes, prepared, schema, top_tokens, write
from benchmarks import index_speed

SPANS, CLOCK, BEGAN = [], time.perf_counter, [0.0]

def note(label, began):
    SPANS.append((label, began - BEGAN[0], CLOCK() - BEGAN[0], threading.current_thread() is threading.main_thread()))

def timed(owner, name, label=None):
    function = getattr(owner, name, None)
    if function is None: return
    def wrapped(*a, **k):
        began = CLOCK()
        try: return function(*a, **k)
        finally: note(label or name, began)
    setattr(owner, name, wrapped)

def entered(owner, name):
    function = getattr(owner, name)
    @contextlib.contextmanager
    def wrapped(*a, **k):
        with contextlib.ExitStack() as stack:
            began = CLOCK(); value = stack.enter_context(function(*a, **k)); note(f"{name}: in", began)
            yield value
            began = CLOCK(); stack.close(); note(f"{name}: out", began)
    setattr(owner, name, wrapped)

for owner, names in (
    (write, ("choose", "store_tokens", "_words", "top_tokens", "top_sources", "on_host", "pack", "_write_vocabulary", "_write_tokens", "_write_features", "_objects")),
    (in_processes, ("_started",)), (schema, ("_close", "remove_leftovers")), (schema.IndexWriter, ("insert", "insert_arrays")),
    (assemble.Assembler, ("highlights",)), (top_tokens.TopTokens, ("first", "bounds")), (os, ("fsync", "replace")),
    (write.FeatureStatistics, ("settle", "pre_activations", "totals")), (prepared.Prepared, ("vocabulary", "plain_forms", "decoder", "map")), (Future, ("result",))):
    for name in names: timed(owner, name)
entered(assemble.Assembler, "begun"); entered(write, "create")
started = in_processes._started
def counted(*a, **k):
    with open("/proc/self/status") as file: memory = {l.split(":")[0]: l.split()[1] for l in file if l.startswith(("VmRSS", "RssAnon", "RssFile", "RssShmem", "VmPTE", "VmSize", "Threads"))}
    print("FORKING kB", memory, "processes", min(in_processes._places(), a[1] // 2), "pieces", a[1], flush=True)
    return started(*a, **k)
in_processes._started = counted
own = gathered.write_index
def writing(path, **k):
    SPANS.clear(); BEGAN[0] = CLOCK()
    made = own(path, **k)
    whole = CLOCK() - BEGAN[0]
    print(f"WRITING {k['statistics'].sae.cfg.d_sae} features: {whole:.3f} s, {path.stat().st_size / 1e6:.1f} MB", flush=True)
    rows = {}
    for label, a, b, main in SPANS:
        row = rows.setdefault((label, main), [0, 0.0, a, b]); row[0] += 1; row[1] += b - a; row[2] = min(row[2], a); row[3] = max(row[3], b)
    for (label, main), (n, s, a, b) in sorted(rows.items(), key=lambda r: r[1][2]):
        print(f"  {'' if main else '(thread) '}{label:18s} {n:4d}x {s:7.3f} s  from {a:7.3f} to {b:7.3f}", flush=True)
    at, gaps = 0.0, []
    for _, a, b, main in sorted(s for s in SPANS if s[3]) and sorted((s for s in SPANS if s[3]), key=lambda s: s[1]):
        if a - at > 0.01: gaps.append(f"{at:.3f}-{a:.3f}")
        at = max(at, b)
    if whole - at > 0.01: gaps.append(f"{at:.3f}-{whole:.3f}")
    print("  covered by none:", ", ".join(gaps) or "nothing", flush=True)
    return made
gathered.write_index = writing
index_speed.main(sys.argv[1:])
