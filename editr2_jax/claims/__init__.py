"""The claims of the papers as questions to the embedded world: what is compared, the runs, and the table."""
