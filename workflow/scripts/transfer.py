"""Fit the binary network from the pretrained weights on one resample."""

from neurotransfer import jobs

with jobs.job(snakemake, lease=snakemake.output.fit):
    from neurotransfer import weights
    from neurotransfer.files import read_table, write_json
    from neurotransfer.finetuning import fit

    source, fitting = snakemake.input, snakemake.params.fitting
    state, metadata = weights.read_weights(source.weights)
    weights.check_weights(
        metadata, {name: fitting[name] for name in ("network", "crop", "preprocessing")}, source.weights
    )
    trunk = {name: value for name, value in state.items() if not name.startswith("head.")}
    seen = read_table(source.participants)["participant_id"].tolist() if source.participants else ()
    record = fit("transfer", source.resample, fitting, weights=source.weights, trunk=trunk, pretrained=seen)
    write_json(snakemake.output.fit, record)
