"""Training: sparse autoencoders on a model's activations, and the demo's own language model."""
