"""What makes a feature fire, in words: prompts for a language model, and a lexical explainer that needs none."""
