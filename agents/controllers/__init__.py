"""Controllers: language models that read and speak, tokenizers, encoders of other observations."""
