"""What `distill doctor` looks at: the installation, the machine, and a probe of the compiled parts."""
