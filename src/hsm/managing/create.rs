//! Making managed keys, by a request or by a program of the standard.

use super::{Done, Job};
use crate::error::{ErrorKind, Result};
use crate::hsm::audit::Action as Audited;
use crate::hsm::command::{ObjectChange, Place, Record};
use crate::hsm::managed::attributes::Origin;
use crate::hsm::managed::creation::{Creation, Made, Request};
use crate::hsm::managed::request::{self, CreateKey};
use crate::hsm::managed::{CKA_KMS_POLICY, dual_control, requested};
use crate::hsm::params::MechanismType;
use crate::hsm::permit::Recorded;
use crate::hsm::value::{Template, Value};
use crate::hsm::{Access, Hsm, random};

/// The spec of a key whose request names none.
const DEFAULT_SPEC: &str = "AES_256";

pub(super) fn create_key(job: &Job<'_>) -> Result<Done> {
    if job.access != Access::User {
        return Err(ErrorKind::UserNotLoggedIn.with("managed keys are made by users"));
    }
    let request: CreateKey = job.parse()?;
    let policy = request.policy.as_ref().map(|policy| super::access::encoded(job, policy)).transpose()?;
    let control = match &request.dual_control {
        Some(_) if request.multi_region => {
            return Err(ErrorKind::KmsMalformedPolicy.with("DualControl: such a key is of one Region"));
        }
        Some(asked) => Some(dual_control::requested(asked, job.hsm.public()?.state())?),
        None => None,
    };
    let owner = job.hsm.principal()?;
    let tags = request::tags(&request.tags);
    let asked = Request {
        spec: request.key_spec.as_deref().unwrap_or(DEFAULT_SPEC),
        usage: request.usage()?,
        origin: request.origin()?,
        multi_region: request.multi_region,
        replicate_imported: request.replicate_imported_material,
        label: &request.label,
        description: &request.description,
        tags: &tags,
        standard_mechanisms: request.standard_mechanisms,
        owner: &owner,
    };
    let creation = Creation::new(&asked, random::array()?, job.now)?;
    job.end_of_checks()?;
    let mut made = match creation.managed.origin() {
        Origin::Hsm => creation.generate()?,
        Origin::External => Made::Secret(creation.without_material()),
    };
    if let Some(control) = &control {
        made.edit(|attributes| dual_control::set(attributes, control));
    }
    if let Some(policy) = &policy {
        made.edit(|attributes| attributes.set(CKA_KMS_POLICY, Value::Bytes(policy.clone())));
    }
    // It is set once.
    let _ = job.made.set(made.attributes().clone());
    let mut insert = job.hsm.records_of(job.access, made, (Place::Token, Place::Token))?;
    // The key in front, its public half after it.
    insert.reverse();
    Ok(Done {
        change: ObjectChange { insert, ..ObjectChange::default() },
        told: creation.managed.id().as_str().to_owned(),
    })
}

impl Hsm {
    /// A managed key that the templates of a generator ask for; the records as C_GenerateKey(Pair)
    /// gives them. `places` are those of the public half, and of the private or secret key.
    pub(in crate::hsm) fn generate_managed(
        &self,
        access: Access,
        generator: MechanismType,
        templates: &[&Template<'_>],
        places: (Place, Place),
    ) -> Result<Vec<Record>> {
        if access != Access::User {
            return Err(ErrorKind::UserNotLoggedIn.with("managed keys are made by users"));
        }
        let mut attributes = None;
        let mut make = || {
            let owner = self.principal()?;
            let (creation, rest) = requested::creation(generator, templates, &owner, random::array()?, self.now())?;
            if places.1 != Place::Token || (templates.len() == 2 && places.0 != Place::Token) {
                return Err(ErrorKind::TemplateInconsistent.with("a managed key is made with CKA_TOKEN true"));
            }
            let made = creation.generate_as(&rest)?;
            attributes = Some(made.attributes().clone());
            self.records_of(access, made, places)
        };
        let outcome = make();
        let recorded = Recorded { action: Audited::CreateKey, key: attributes.as_ref(), target: None, context: None };
        self.recorded(&recorded, outcome)
    }

    /// The public half first.
    fn records_of(&self, access: Access, made: Made, places: (Place, Place)) -> Result<Vec<Record>> {
        match made {
            Made::Secret(key) => Ok(vec![self.new_record(access, key, places.1)?]),
            Made::Pair { public, private } => {
                Ok(vec![self.new_record(access, public, places.0)?, self.new_record(access, private, places.1)?])
            }
        }
    }
}
