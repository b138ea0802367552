"""Planning of a script of several stages before its first one runs: stages, profiles, devices, disk and hours."""
