"""Models beside the peers: same inputs, same threads, in turns in one run, outputs checked."""
