"""Floor 4: YAML files, command line, composition of the parts, tracking, report, studies."""
