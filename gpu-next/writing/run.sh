#!/usr/bin/env bash
# From a repository root on one H200 (nvidia-h200, 16 cores), <= 120 s: where the writing of an index goes, at three widths.
# Carry: this folder (run.sh stages.py corpus.parquet whl/). OUT=where results go: writing.json, writing.txt, writing.err.
set -u
HERE=$(cd "$(dirname "$0")" && pwd); OUT=${OUT:-$HERE/out}; mkdir -p "$OUT"
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONPATH=".${PYTHONPATH:+:$PYTHONPATH}"
python3 -c "import duckdb, tyro, jaxtyping, filelock" 2>/dev/null || { python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site_writing "$HERE"/whl/*.whl && export PYTHONPATH="$PYTHONPATH:/tmp/site_writing"; }
cat /sys/kernel/mm/transparent_hugepage/enabled; nproc; grep MemTotal /proc/meminfo
# The machine's memory grows as it is touched (some 0.4 s a GB): filled once, before anything is timed.
[ "${FILL:-1}" = 1 ] && python3 -c "import numpy as np; a = np.ones(12 * 2**27)" ; grep MemTotal /proc/meminfo
timeout -k 5 112 python3 "$HERE/stages.py" --shape 2b --d-sae 16384 131072 1048576 --corpus "$HERE/corpus.parquet" \
  --seconds 106 --out "$OUT/writing.json" > >(grep -E "WRITING|FORKING|^  |covered" | grep -v '^ *[]}"]' | tee "$OUT/writing.txt") 2> >(tee "$OUT/writing.err" | cut -c1-1800 >&2)
echo "rc $?"
