"""What a script of several stages needs before its first stage runs: its stages, profiles, devices, disk and hours."""
