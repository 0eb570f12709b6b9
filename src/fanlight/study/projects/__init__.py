"""`fanlight study DATA --recipe NAME`: all that one reference project compared, measured here, beside what it reported."""
