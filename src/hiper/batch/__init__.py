"""Many subjects: job files in, one folder per job out, whatever interrupts it."""
