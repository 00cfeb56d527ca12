"""Causal language models at run time, without PyTorch: embeddings in, hidden states out."""
