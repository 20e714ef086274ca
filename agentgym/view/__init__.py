"""Looking at runs: an index over their record, and a page that shows it. Loopback only, behind a token."""
