//! AES-CMAC (PKCS#11 3.2 §6.14).

use std::sync::Arc;

use cryptoki_sys as ck;

use super::Row;
use super::aes::{MAX_KEY, MIN_KEY};
use super::mac::{MAX_MAC, MacOperation, Scheme, State};
use crate::error::{ErrorKind, Result};
use crate::hsm::command::{Function, Operation};
use crate::hsm::crypto::aws_lc::aes::BLOCK;
use crate::hsm::crypto::aws_lc::cmac::{CmacKey, CmacState};
use crate::hsm::key::Key;
use crate::hsm::params::{Mechanism, MechanismType, ParamShape, Params};

pub(super) const ROWS: &[Row] = &[
    row(ck::CKM_AES_CMAC, "CKM_AES_CMAC", ParamShape::None),
    row(ck::CKM_AES_CMAC_GENERAL, "CKM_AES_CMAC_GENERAL", ParamShape::MacGeneral),
];

const fn row(kind: MechanismType, name: &'static str, params: ParamShape) -> Row {
    Row {
        kind,
        name,
        min_key: MIN_KEY,
        max_key: MAX_KEY,
        params,
        key_types: &[ck::CKK_AES],
        sign: Some(begin),
        ..Row::NONE
    }
}

fn begin(mechanism: &Mechanism<'_>, function: Function, key: Arc<Key>) -> Result<Box<dyn Operation>> {
    let len = match mechanism.params {
        Params::MacGeneral(len) => usize::try_from(len).unwrap_or(usize::MAX),
        _ => BLOCK,
    };
    if !(1..=BLOCK).contains(&len) {
        return Err(ErrorKind::MechanismParamInvalid.into());
    }
    MacOperation::begin(Cmac, key, function, len)
}

/// The scheme of a CMAC with AES.
#[derive(Clone, Copy)]
pub(super) struct Cmac;

impl Scheme for Cmac {
    type State = CmacState;

    fn start(self, key: &Key) -> Result<CmacState> {
        key.engine(|key| CmacKey::new(key.secret(ck::CKA_VALUE)?))?.start()
    }
}

impl State for CmacState {
    fn update(&mut self, input: &[u8]) -> Result<()> {
        Self::update(self, input)
    }

    fn finish(&mut self, out: &mut [u8; MAX_MAC]) -> Result<()> {
        out[..BLOCK].copy_from_slice(&Self::finish(self)?);
        Ok(())
    }
}
