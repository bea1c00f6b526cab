"""Early exits: where a model may stop, how it decides to, and what that may cost."""
