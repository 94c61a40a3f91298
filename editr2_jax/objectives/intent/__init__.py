"""Intent objectives: one file each, named by objective.intent.kind. A file holds Config and loss(tokens, config) -> TokenLoss."""
