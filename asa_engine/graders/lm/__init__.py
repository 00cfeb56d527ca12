"""What graders with a language model share: checkpoints, shapes, prompts, windows."""
