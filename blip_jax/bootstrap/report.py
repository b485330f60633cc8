def write_report(config, workdir, sources):
    return workdir
