//! Commands on their way: proposed, signed by operators, kept as pending, executed.

use cryptoki_sys::{CK_BYTE_PTR, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_ULONG_PTR, CK_UTF8CHAR_PTR};

use super::input;
use crate::abi::guard::entry;
use crate::abi::ptr::Room;
use crate::cryptoki::Module;
use crate::error::{ErrorKind, Result};

/// Makes a proposal of a command and keeps it among the pending ones. Needs no login, but a
/// read/write session. A call that gives only the length keeps nothing.
///
/// pRequest, ulRequestLen: what to do, a JSON object {"command": NAME, ...arguments}, UTF-8.
///     "valid_from" (seconds since 1970; now) and "valid_for" (seconds; a day, or less by the
///     domain's limits) may be given with each command. Bytes are lower-case hexadecimal, a CLAIM is
///     the COSE_Sign1 by which a party proves that it has its keys, a ROLE is "SO", "user" or
///     {"named": TEXT}, NUMBER? and the like may be left out. The commands:
///
///     "found domain"         region: TEXT, operators: [{"claim": CLAIM, "roles": [TEXT]}],
///                            rules: [RULE]?
///     "add operator"         operator: CLAIM, roles: [TEXT]
///     "re-key operator"      operator: CLAIM
///     "remove operator"      id: BYTES
///     "set rule"             rule: RULE = {"command": TEXT, "alternatives": [{ROLE NAME: NUMBER or
///                            "majority"}]}
///     "admit host"           host: CLAIM
///     "expel host"           id: BYTES
///     "admit HSM"            hsm: CLAIM
///     "expel HSM"            id: BYTES, retain: SECONDS?
///     "create user",
///     "reset PIN"            role: ROLE, code: TEXT? or code_hash: BYTES?, window: SECONDS? or
///                            until: TIME?
///     "remove user"          role: ROLE
///     "rotate domain key"    retain: SECONDS?
///     "schedule retirement"  key: BYTES, at: TIME?
///     "rotate RSK"
///     "standing order"       order: {"interval": SECONDS, "window": SECONDS, "retain": SECONDS?,
///                            "until": TIME} or null
///     "set limits"           limits: {NAME: SECONDS}, as KMS_DescribeDomain names them
///     "allow suite"          suite: NUMBER, allowed: BOOLEAN?
///     "trust Region"         region: {"name": TEXT, "domain": BYTES, "replication_keys": [BYTES]}
///     "distrust Region"      name: TEXT
///     "trust key"            object: BYTES (CKA_UNIQUE_ID), trusted: BOOLEAN?
///     "revoke key"           object: BYTES, generation: NUMBER
///     "give up replica",
///     "emergency promote"    key_ids: [TEXT, ...], region: TEXT
///     "use key"              key: TEXT, action: TEXT, digest: BYTES | null, count: NUMBER?,
///                            instance: BYTES?
///     "set dual control"     key: TEXT, operators: [TEXT, ...], threshold: NUMBER
///     "make recovery set"    threshold: NUMBER, operators: [BYTES]? (the ids; else one per person)
///     "recover domain"       hsm: CLAIM (of KMS_BeginRecovery)
///
/// pProposal, *pulProposalLen: gets the proposal (COSE_Sign) without signatures. Show it with
///     KMS_DescribeProposal before anybody signs it.
///
/// CKR_ARGUMENTS_BAD: the request is not of that form; KMS_LastError names the field that is wrong.
/// CKR_SESSION_READ_ONLY. CKR_BUFFER_TOO_SMALL. CKR_FUNCTION_REJECTED: it has expired already.
/// CKR_DEVICE_MEMORY: too many proposals are pending.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_Propose(
    hSession: CK_SESSION_HANDLE,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
    pProposal: CK_BYTE_PTR,
    pulProposalLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_Propose, |caller, module| {
        let output = caller.room(pProposal, pulProposalLen)?;
        let request = std::str::from_utf8(input(caller, pRequest, ulRequestLen)?);
        let request = request.map_err(|_| ErrorKind::ArgumentsBad.with("the request is not UTF-8"))?;
        let proposal = module.propose(hSession, request)?;
        keep(module, hSession, &proposal, &output)
    })
}

/// Says what a proposal would do in plain words, who has signed it, whether the signatures are
/// right and enough, and why it would be refused now. Needs no login.
///
/// pProposal, ulProposalLen: a proposal, pending or not.
/// pJson, *pulJsonLen: gets a JSON object: id, command, arguments, words, domain, governance,
///     not_before, not_after, nonce, signers, quorum_met, lacking (what the quorum lacks), refusal (why
///     it would be refused now), obstacle (why it would be, whoever signs it).
///
/// CKR_DATA_INVALID: it is not a proposal. CKR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_DescribeProposal(
    hSession: CK_SESSION_HANDLE,
    pProposal: CK_BYTE_PTR,
    ulProposalLen: CK_ULONG,
    pJson: CK_UTF8CHAR_PTR,
    pulJsonLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_DescribeProposal, |caller, module| {
        let output = caller.room(pJson, pulJsonLen)?;
        output.give(module.describe_proposal(hSession, input(caller, pProposal, ulProposalLen)?)?.as_bytes())
    })
}

/// Gives the bytes that an operator signs: the Sig_structure of his signature. He signs with ECDSA
/// over their SHA-384 (CKM_ECDSA_SHA384). Needs no login.
///
/// pProposal, ulProposalLen: the proposal.
/// pPublicKey, ulPublicKeyLen: the operator's public signing key, a DER SubjectPublicKeyInfo of
///     P-384 with an uncompressed point, 120 bytes (CKA_PUBLIC_KEY_INFO).
/// pBytes, *pulBytesLen: gets the bytes.
///
/// CKR_DATA_INVALID: it is not a proposal. CKR_PUBLIC_KEY_INVALID: it is not such a key.
/// CKR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_BytesToSign(
    hSession: CK_SESSION_HANDLE,
    pProposal: CK_BYTE_PTR,
    ulProposalLen: CK_ULONG,
    pPublicKey: CK_BYTE_PTR,
    ulPublicKeyLen: CK_ULONG,
    pBytes: CK_BYTE_PTR,
    pulBytesLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_BytesToSign, |caller, module| {
        let output = caller.room(pBytes, pulBytesLen)?;
        let proposal = input(caller, pProposal, ulProposalLen)?;
        output.give(&module.bytes_to_sign(hSession, proposal, input(caller, pPublicKey, ulPublicKeyLen)?)?)
    })
}

/// Adds an operator's signature to a proposal, if it is right, and keeps the proposal among the
/// pending ones with the signatures it has there. Needs no login, but a read/write session. A call
/// that gives only the length verifies the signature and keeps nothing.
///
/// pProposal, ulProposalLen: the proposal, pending or not.
/// pPublicKey, ulPublicKeyLen: the key that signed, as for KMS_BytesToSign.
/// pSignature, ulSignatureLen: r and s, 48 bytes each (as C_Sign gives them).
/// pSigned, *pulSignedLen: gets the proposal with all signatures. It may be the memory of an input.
///
/// CKR_DATA_INVALID: the proposal, key or signature is malformed. CKR_FUNCTION_REJECTED: the key is
/// no operator's (or, for "found domain", none of those it names) or has signed already, the
/// signature does not verify, or the proposal is for another domain or has expired.
/// CKR_SESSION_READ_ONLY. CKR_BUFFER_TOO_SMALL. CKR_DEVICE_MEMORY: too many proposals are pending.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_AddSignature(
    hSession: CK_SESSION_HANDLE,
    pProposal: CK_BYTE_PTR,
    ulProposalLen: CK_ULONG,
    pPublicKey: CK_BYTE_PTR,
    ulPublicKeyLen: CK_ULONG,
    pSignature: CK_BYTE_PTR,
    ulSignatureLen: CK_ULONG,
    pSigned: CK_BYTE_PTR,
    pulSignedLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_AddSignature, |caller, module| {
        let output = caller.room(pSigned, pulSignedLen)?;
        let proposal = input(caller, pProposal, ulProposalLen)?;
        let signer = input(caller, pPublicKey, ulPublicKeyLen)?;
        let signature = input(caller, pSignature, ulSignatureLen)?;
        let signed = module.add_signature(hSession, proposal, signer, signature)?;
        keep(module, hSession, &signed, &output)
    })
}

/// Keeps a proposal that came from elsewhere among the pending ones, with the signatures it has
/// there. Needs no login, but a read/write session. A call that gives only the length keeps nothing.
///
/// pProposal, ulProposalLen: the proposal.
/// pMerged, *pulMergedLen: gets the proposal with the signatures of both. It may be the memory of
///     the input.
///
/// CKR_DATA_INVALID: it is not a proposal. CKR_FUNCTION_REJECTED: it is for another domain, has
/// expired, or has a signature that is no operator's or does not verify. CKR_SESSION_READ_ONLY.
/// CKR_BUFFER_TOO_SMALL. CKR_DEVICE_MEMORY: too many proposals are pending.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_PutProposal(
    hSession: CK_SESSION_HANDLE,
    pProposal: CK_BYTE_PTR,
    ulProposalLen: CK_ULONG,
    pMerged: CK_BYTE_PTR,
    pulMergedLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_PutProposal, |caller, module| {
        let output = caller.room(pMerged, pulMergedLen)?;
        keep(module, hSession, input(caller, pProposal, ulProposalLen)?, &output)
    })
}

/// Lists the pending proposals, oldest first. Needs no login.
///
/// pJson, *pulJsonLen: gets a JSON array; each element is what KMS_DescribeProposal says, and
///     "proposal", the proposal itself in hexadecimal.
///
/// CKR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_ListProposals(
    hSession: CK_SESSION_HANDLE,
    pJson: CK_UTF8CHAR_PTR,
    pulJsonLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_ListProposals, |caller, module| {
        let output = caller.room(pJson, pulJsonLen)?;
        output.give(module.proposals(hSession)?.as_bytes())
    })
}

/// Gives a pending proposal. Needs no login.
///
/// pId, ulIdLen: its id, 32 bytes ("id" of KMS_DescribeProposal): the SHA-256 of the command, which
///     signatures do not change.
/// pProposal, *pulProposalLen: gets the proposal with the signatures that were added.
///
/// CKR_ARGUMENTS_BAD: the id does not have 32 bytes. CKR_FUNCTION_REJECTED: no such proposal is
/// pending. CKR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_GetProposal(
    hSession: CK_SESSION_HANDLE,
    pId: CK_BYTE_PTR,
    ulIdLen: CK_ULONG,
    pProposal: CK_BYTE_PTR,
    pulProposalLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_GetProposal, |caller, module| {
        let output = caller.room(pProposal, pulProposalLen)?;
        output.give(&module.proposal(hSession, input(caller, pId, ulIdLen)?)?)
    })
}

/// Drops a pending proposal. It takes back no signature: a copy elsewhere with enough of them can
/// still be executed until it expires. Needs no login, but a read/write session.
///
/// pId, ulIdLen: its id, as for KMS_GetProposal.
///
/// CKR_ARGUMENTS_BAD: the id does not have 32 bytes. CKR_FUNCTION_REJECTED: no such proposal is
/// pending. CKR_SESSION_READ_ONLY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_WithdrawProposal(
    hSession: CK_SESSION_HANDLE,
    pId: CK_BYTE_PTR,
    ulIdLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_WithdrawProposal, |caller, module| module.withdraw_proposal(hSession, input(caller, pId, ulIdLen)?))
}

/// Executes a command that enough operators have signed, and drops it from the pending ones. The
/// session is read/write and a user or the SO is logged in, which opens the domain; "found domain"
/// needs the SO. "recover domain" is for KMS_Recover.
///
/// pProposal, ulProposalLen: the signed proposal, pending or not.
///
/// CKR_DATA_INVALID: it is not a proposal. CKR_FUNCTION_REJECTED: it was refused; KMS_LastError says
/// why, such as "quorum not met". CKR_USER_NOT_LOGGED_IN. CKR_SESSION_READ_ONLY. Nothing has changed
/// then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_Execute(
    hSession: CK_SESSION_HANDLE,
    pProposal: CK_BYTE_PTR,
    ulProposalLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_Execute, |caller, module| module.execute(hSession, input(caller, pProposal, ulProposalLen)?))
}

/// Keeps a proposal if what is kept then fits into the output; gives it, or its length.
fn keep(module: &Module, session: CK_SESSION_HANDLE, proposal: &[u8], output: &Room<'_>) -> Result<()> {
    output.give(&module.put_proposal_within(session, proposal, output.len())?)
}
