#!/usr/bin/env bash
# Makes everything in this folder, from text to indexes. Needs one CUDA GPU and about 12 minutes.
#
#   app/demo/make.sh CORPUS OUT
#
# CORPUS holds train-*.parquet and validation.parquet with the columns source, license, title, text;
# README.md beside this says which texts ours were.
set -euo pipefail
corpus=$1 out=$2

python -m training.lm --corpus "$corpus/train-*.parquet" --validation "$corpus/validation.parquet" \
    --out "$out/lm" --attention flex --lr 6e-3 --max-seconds 360

mkdir -p "$out/demo/saes"
cp -r "$out/lm/model" "$out/demo/model"

jumpscope train --preset short_run --model "$out/demo/model" \
    --corpus "$corpus/train-0[0-6]-of-12.parquet" \
    --eval-corpus "$corpus/validation.parquet" --eval-tokens 400000 \
    --sites resid_post/4 mlp_out/6 --d-sae 4096 --l0-targets 32 \
    --threshold-init 0.01 --vector-rate 1 --b-dec-rate 1 --revive 0 --lr-warmup 500 \
    --tokens 102400000 --save-dtype bfloat16 --out "$out/trained"

cp -r "$out"/trained/saes/* "$out/demo/saes/"
cp "$(dirname "$0")/bundle.json" "$out/demo/"
jumpscope index --bundle "$out/demo" --corpus "$corpus/train-00-of-12.parquet" --tokens 3100000 \
    --dtype float32
jumpscope inspect "$out/demo" --check --save --dtype float32
