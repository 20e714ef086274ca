"""Our environments in other people's trainers. Each module imports the trainer that it is for, and nothing else here imports it."""
