"""Whether a fine-tune changed what a model does inside: features paired by prompt, effects, calibration, verdict."""
