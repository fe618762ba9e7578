#!/usr/bin/env bash
# Makes everything in this folder, from text to indexes. Needs one CUDA GPU and, by estimate, about 20 minutes.
# What it makes is like what is here, not the same: README.md says what was done besides.
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

# SITE FEATURES LR
sae() {
    jumpscope train --preset short_run --model "$out/demo/model" \
        --corpus "$corpus/train-0[0-6]-of-12.parquet" \
        --eval-corpus "$corpus/validation.parquet" --eval-tokens 400000 \
        --sites "$1" --d-sae "$2" --l0-targets 32 --lrs "$3" --lr-decay 0.8 \
        --beta1 0.9 --target-coefficient 1 --revive-after 2000000 \
        --tokens 245760000 --save-dtype float8_e4m3fn --out "$out/trained-$2"
    cp -r "$out/trained-$2"/saes/* "$out/demo/saes/"
}
sae resid_post/4 6144 0.005
sae mlp_out/6 9216 0.003

cp "$(dirname "$0")/bundle.json" "$out/demo/"
jumpscope index --bundle "$out/demo" --corpus "$corpus/train-00-of-12.parquet" --tokens 1000000 \
    --dtype float32 --output-scores on --map umap
jumpscope inspect "$out/demo" --check --save --dtype float32
