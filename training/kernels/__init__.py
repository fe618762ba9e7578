"""The parts of a sparse training step: in plain PyTorch, and in Triton for CUDA.

    select   pre-activations -> the list of entries (token, feature) that matter
    decode   reconstruction and its error from the active entries alone
    update   gradients of W_enc and W_dec from the list, summed per feature, and Adam, in one pass
    finish   the biases, the thresholds and the batch's statistics

`plain` and `fused` offer the same functions; `plain` is what `fused` is tested against.
"""
