"""How good a model is: metrics, confidence intervals, and the judge of candidates."""
