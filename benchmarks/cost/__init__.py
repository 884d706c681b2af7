"""What things cost: a step (`step`), reading networks (`encoder`), tracing (`trace`), meta-training (`meta`)."""
