"""The intermediate representation: types, ops, graphs, text form, verifier, cost, targets."""
