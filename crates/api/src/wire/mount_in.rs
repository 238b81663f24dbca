//! Reads `HostConfig.Mounts`.

use kekkai_engine::model::{BindMountOptions, MountRequest, TmpfsMountOptions, VolumeMountOptions};

use crate::http::{ApiError, Fields};

/// One entry of `Mounts`. What is in it and not done is refused; what nobody knows is warned of.
pub(super) fn read_mount(
    mut fields: Fields,
    warnings: &mut Vec<String>,
) -> Result<MountRequest, ApiError> {
    for field in ["ClusterOptions", "ImageOptions"] {
        fields.refuse(field)?;
    }
    let mount = MountRequest {
        kind: fields.string("Type")?,
        source: fields.string("Source")?,
        target: fields.string("Target")?,
        read_only: fields.bool("ReadOnly")?,
        consistency: fields.string("Consistency")?,
        bind: fields
            .object("BindOptions")?
            .map(|bind| read_bind(bind, warnings))
            .transpose()?,
        volume: fields
            .object("VolumeOptions")?
            .map(|volume| read_volume(volume, warnings))
            .transpose()?,
        tmpfs: fields
            .object("TmpfsOptions")?
            .map(|tmpfs| read_tmpfs(tmpfs, warnings))
            .transpose()?,
    };
    fields.finish(warnings);
    Ok(mount)
}

fn read_bind(mut fields: Fields, warnings: &mut Vec<String>) -> Result<BindMountOptions, ApiError> {
    let bind = BindMountOptions {
        propagation: fields.string("Propagation")?,
        non_recursive: fields.bool("NonRecursive")?,
        create_mountpoint: fields.bool("CreateMountpoint")?,
        read_only_non_recursive: fields.bool("ReadOnlyNonRecursive")?,
        read_only_force_recursive: fields.bool("ReadOnlyForceRecursive")?,
    };
    fields.finish(warnings);
    Ok(bind)
}

fn read_volume(
    mut fields: Fields,
    warnings: &mut Vec<String>,
) -> Result<VolumeMountOptions, ApiError> {
    let driver = fields.object("DriverConfig")?;
    let mut volume = VolumeMountOptions {
        no_copy: fields.bool("NoCopy")?,
        labels: fields.string_map("Labels")?,
        subpath: fields.string("Subpath")?,
        ..VolumeMountOptions::default()
    };
    if let Some(mut driver) = driver {
        volume.driver = driver.string("Name")?;
        volume.driver_options = driver.string_map("Options")?;
        driver.finish(warnings);
    }
    fields.finish(warnings);
    Ok(volume)
}

fn read_tmpfs(
    mut fields: Fields,
    warnings: &mut Vec<String>,
) -> Result<TmpfsMountOptions, ApiError> {
    let options = match fields.take("Options") {
        serde_json::Value::Null => Vec::new(),
        value => serde_json::from_value(value).map_err(|error| {
            ApiError::invalid(format!("invalid JSON: {}: {error}", fields.name("Options")))
        })?,
    };
    let tmpfs = TmpfsMountOptions {
        size_bytes: fields.integer("SizeBytes")?,
        mode: fields.number("Mode")?,
        options,
    };
    fields.finish(warnings);
    Ok(tmpfs)
}
