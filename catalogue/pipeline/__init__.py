"""The batch logic: plan, units, records, resume, merge."""
