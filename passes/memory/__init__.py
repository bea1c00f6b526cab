"""Where values live and when: joins in place, the order of nodes, tiers of memory."""
