from frostline.cli import command

if __name__ == "__main__":  # a process that torch spawns imports this file, too
    command()
