"""The meaning of every op in torch: the oracle of tests and calibration."""
