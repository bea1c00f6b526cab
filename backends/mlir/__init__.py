"""The bridge to torch-mlir: linalg, TOSA and StableHLO text, and a second oracle."""
