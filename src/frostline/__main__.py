from frostline.cli import command

command()
