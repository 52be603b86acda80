/* Multi-Region keys as a C program moves them: two tokens of one process as two Regions, whose domains
 * trust each other by their operators' commands; each step by its own function and by
 * KMS_ReceiveReplication; lengths; refusals. With a founder both are fleets, then either one of them. */
#include "operators.h"

#define ID(text) (CK_BYTE *)(uintptr_t)(text), strlen(text)
#define NO_CONTEXT NULL, 0
#define BYTES_OF(message) (message).bytes, (message).len

typedef struct {
    const char *name;
    CK_SLOT_ID slot;
    CK_SESSION_HANDLE session;
    CK_BYTE domain[16];
    party founders[2];
} region;

static region bern = {.name = "Bern", .founders = {{.name = "Anna"}, {.name = "Ben"}}};
static region como = {.name = "Como", .founders = {{.name = "Carla"}, {.name = "Dario"}}};
static region davos = {.name = "Davos", .founders = {{.name = "Eva"}, {.name = "Fritz"}}};
/* Whose keys they are, and who gets replicas. */
static const region *a, *b;
static buffer offer, shipment, receipt, activate, activated, scratch;

/* The helpers of operators.h are about this one from now on. */
static void enter(const region *one) {
    slot = one->slot;
    session = one->session;
    memcpy(domain_id, one->domain, sizeof domain_id);
}

static void found(region *one, int fleet) {
    found_region(one->name, one->name, one->founders, 2, fleet);
    one->slot = slot;
    one->session = session;
    memcpy(one->domain, domain_id, sizeof domain_id);
}

static void trust(const region *one, const region *other) {
    char request[1024], domain[33], rsk[241];
    enter(other);
    to_hex(domain, other->domain, sizeof other->domain);
    const char *at = strstr(describe_domain(), "\"replication_keys\":[");
    at = at ? strstr(at, "\"public_key\":\"") : NULL;
    if (!CHECK(at)) exit(1);
    snprintf(rsk, sizeof rsk, "%.240s", at + strlen("\"public_key\":\""));
    snprintf(request, sizeof request,
             "{\"command\":\"trust Region\",\"region\":{\"name\":\"%s\",\"domain\":\"%s\",\"replication_keys\":[\"%s\"]}}",
             other->name, domain, rsk);
    enter(one);
    decide(request, &one->founders[0], &one->founders[1]);
}

/* A request with a key id and perhaps a Region in it. */
static CK_BYTE *request(const char *format, const char *first, const char *second) {
    static __thread char text[512];
    snprintf(text, sizeof text, format, first, second);
    return (CK_BYTE *)text;
}
#define LENGTH_OF(text) strlen((const char *)(text))
#define WANTED "{\"Region\":\"%s\",\"KeyIds\":[\"%s\"]}"

static void make_key(const region *where, char *id, const char *text) {
    CK_ULONG len = KMS_ID_LEN;
    memset(id, 0, KMS_ID_LEN + 1);
    OK(kms->KMS_CreateKey(where->session, 0, ID(text), (CK_BYTE *)id, &len));
    CHECK(!strncmp(id, "mrk-", 4));
}

static CK_RV allow(const region *where, const char *id, const region *to) {
    CK_BYTE *text = request("{\"KeyId\":\"%s\",\"ReplicaRegion\":\"%s\"}", id, to->name);
    return kms->KMS_ReplicateKey(where->session, 0, text, LENGTH_OF(text));
}

static CK_RV make_offer(const region *where, const region *to, const char *id) {
    CK_BYTE *text = request(WANTED, to->name, id);
    offer.len = sizeof offer.bytes;
    return kms->KMS_OfferReplicas(where->session, text, LENGTH_OF(text), offer.bytes, &offer.len);
}

static CK_RV exchange(KMS_EXCHANGE function, const region *where, buffer *message, buffer *answer) {
    answer->len = sizeof answer->bytes;
    return function(where->session, message->bytes, message->len, answer->bytes, &answer->len);
}
#define RECEIVE(where, message, answer) exchange(kms->KMS_ReceiveReplication, where, message, answer)

static const char *ask(KMS_QUERY function, const region *where, const char *id) {
    CK_BYTE *text = request("{\"KeyId\":\"%s\"}", id, NULL);
    CK_ULONG len = sizeof json - 1;
    return described(function(where->session, text, LENGTH_OF(text), json, &len), &len);
}
#define SAYS(function, where, id, text) CHECK(strstr(ask(kms->function, where, id), text))

static void crosses(const region *from, const region *to, const char *id) {
    CK_BYTE blob[1024], out[256];
    CK_ULONG blob_len = sizeof blob, len = sizeof out;
    OK(kms->KMS_Encrypt(from->session, 0, ID(id), NO_CONTEXT, ID("over the border"), blob, &blob_len));
    OK(kms->KMS_Decrypt(to->session, 0, NULL, 0, NO_CONTEXT, blob, blob_len, out, &len));
    CHECK(len == 15 && !memcmp(out, "over the border", 15));
}

static void replicated(char *id) {
    make_key(a, id, "{\"MultiRegion\":true}");
    OK(allow(a, id, b));
    OK(make_offer(b, a, id));
    OK(RECEIVE(a, &offer, &shipment));
    OK(RECEIVE(b, &shipment, &receipt));
    OK(RECEIVE(a, &receipt, &activate));
    OK(RECEIVE(b, &activate, &activated));
    OK(RECEIVE(a, &activated, &scratch));
    CHECK(scratch.len == 0);
}

/* The tests. */

static void each_step_by_its_own_function(void) {
    char id[KMS_ID_LEN + 1];
    make_key(a, id, "{\"MultiRegion\":true,\"Description\":\"both\"}");
    OK(allow(a, id, b));
    SAYS(KMS_DescribeReplicas, a, id, "\"Registered\":false");
    OK(make_offer(b, a, id));
    OK(exchange(kms->KMS_ShipReplicas, a, &offer, &shipment));
    OK(kms->KMS_AcceptReplicas(b->session, BYTES_OF(shipment)));
    SAYS(KMS_DescribeKey, b, id, "\"Creating\"");
    OK(exchange(kms->KMS_ConfirmReplicas, b, &shipment, &receipt));
    OK(RECEIVE(a, &receipt, &activate));
    CHECK(activate.len > 0);
    OK(RECEIVE(b, &activate, &activated));
    OK(RECEIVE(a, &activated, &scratch));
    CHECK(scratch.len == 0);
    SAYS(KMS_DescribeKey, b, id, "\"Enabled\"");
    SAYS(KMS_DescribeReplicas, a, id, "\"PRIMARY\"");
    SAYS(KMS_DescribeReplicas, a, id, "\"Registered\":true");
    SAYS(KMS_DescribeReplicas, b, id, "\"REPLICA\"");
    crosses(a, b, id);
    crosses(b, a, id);
}

static void receiving_does_all_of_it(void) {
    char id[KMS_ID_LEN + 1];
    replicated(id);
    crosses(a, b, id);
    crosses(b, a, id);
    CK_OBJECT_HANDLE object = 0;
    CK_ATTRIBUTE of[] = {{CKA_ID, id, KMS_ID_LEN}};
    CHECK(find(b->session, of, 1, &object) == 1);
    CHECK(get_bool(b->session, object, CKA_KMS_MULTI_REGION) == 1);
    /* A rotation reaches the replica before it is used. */
    CK_BYTE *text = request("{\"KeyId\":\"%s\"}", id, NULL);
    OK(kms->KMS_RotateKey(a->session, 0, text, LENGTH_OF(text)));
    CHECK_RV(kms->KMS_RotateKey(a->session, 0, text, LENGTH_OF(text)), KMS_R_INVALID_STATE);
    CHECK_RV(kms->KMS_RotateKey(b->session, 0, text, LENGTH_OF(text)), KMS_R_UNSUPPORTED);
    text = request("{\"Kind\":\"request\",\"Region\":\"%s\",\"KeyIds\":[\"%s\"]}", b->name, id);
    scratch.len = sizeof scratch.bytes;
    OK(kms->KMS_TellReplicas(a->session, text, LENGTH_OF(text), scratch.bytes, &scratch.len));
    OK(RECEIVE(b, &scratch, &offer));
    OK(RECEIVE(a, &offer, &shipment));
    OK(RECEIVE(b, &shipment, &receipt));
    OK(RECEIVE(a, &receipt, &activate));
    crosses(a, b, id);
    OK(RECEIVE(b, &activate, &activated));
    OK(RECEIVE(a, &activated, &scratch));
    crosses(b, a, id);
    SAYS(KMS_DescribeReplicas, a, id, "\"ActiveVersion\":2");
    CK_ULONG len = sizeof json;
    OK(kms->KMS_PendingReplication(a->session, NULL, 0, json, &len));
}

/* With NULL a length that is enough, and nothing is done; with too little room neither. */
static void lengths_are_told_and_nothing_is_done(void) {
    char id[KMS_ID_LEN + 1];
    CK_ULONG len = 0, exact;
    make_key(a, id, "{\"MultiRegion\":true}");
    OK(allow(a, id, b));
    CK_BYTE *text = request(WANTED, a->name, id);
    OK(kms->KMS_OfferReplicas(b->session, text, LENGTH_OF(text), NULL, &len));
    exact = len;
    len = 10;
    CHECK_RV(kms->KMS_OfferReplicas(b->session, text, LENGTH_OF(text), offer.bytes, &len), CKR_BUFFER_TOO_SMALL);
    CHECK(len == exact);
    OK(make_offer(b, a, id));
    CHECK(offer.len <= exact);
    static const struct {
        buffer *message, *answer;
    } steps[] = {{&offer, &shipment}, {&shipment, &receipt}, {&receipt, &activate}, {&activate, &activated}, {&activated, &scratch}};
    for (size_t i = 0; i < COUNT(steps); i++) {
        const region *where = i % 2 ? b : a;
        buffer *message = steps[i].message, *answer = steps[i].answer;
        for (int twice = 0; twice < 2; twice++) {
            OK(kms->KMS_ReceiveReplication(where->session, BYTES_OF(*message), NULL, &len));
            exact = len;
            len = 1;
            CHECK_RV(kms->KMS_ReceiveReplication(where->session, BYTES_OF(*message), answer->bytes, &len),
                     CKR_BUFFER_TOO_SMALL);
            CHECK(len == exact);
        }
        OK(kms->KMS_ReceiveReplication(where->session, BYTES_OF(*message), answer->bytes, &len));
        CHECK(len <= exact);
        answer->len = len;
    }
    crosses(a, b, id);
    CHECK_RV(kms->KMS_ReceiveReplication(a->session, NULL, 5, NULL, &len), CKR_ARGUMENTS_BAD);
    CHECK_RV(kms->KMS_ReceiveReplication(a->session, BYTES_OF(offer), NULL, NULL), CKR_ARGUMENTS_BAD);
    CHECK_RV(kms->KMS_AcceptReplicas(b->session, offer.bytes, KMS_MAX_MESSAGE_LEN + 1), CKR_ARGUMENTS_BAD);
    CHECK_RV(kms->KMS_OfferReplicas(b->session, ID("{\"Region\":\"Bern\"}"), NULL, &len), CKR_ARGUMENTS_BAD);
    CHECK_RV(kms->KMS_OfferReplicas(b->session, ID("{\"Region\":\"Bern\",\"KeyIds\":[1]}"), NULL, &len), CKR_ARGUMENTS_BAD);
    CHECK_RV(kms->KMS_TellReplicas(a->session, ID("{\"Kind\":\"x\",\"Region\":\"Como\",\"KeyIds\":[\"x\"]}"), NULL, &len),
             CKR_ARGUMENTS_BAD);
}

static void refusals(void) {
    char id[KMS_ID_LEN + 1];
    make_key(a, id, "{\"MultiRegion\":true}");
    OK(make_offer(b, a, id));
    /* Nobody authorised it. */
    CHECK_RV(RECEIVE(a, &offer, &shipment), KMS_R_REPLICATION_REFUSED);
    OK(allow(a, id, b));
    OK(make_offer(b, a, id));
    for (CK_ULONG at = 3; at < offer.len; at += offer.len / 7) {
        offer.bytes[at] ^= 1;
        CHECK_RV(RECEIVE(a, &offer, &shipment), KMS_R_REPLICATION_REFUSED);
        offer.bytes[at] ^= 1;
    }
    /* To its own sender, and of the wrong kind. */
    CHECK_RV(RECEIVE(b, &offer, &scratch), KMS_R_REPLICATION_REFUSED);
    CHECK_RV(kms->KMS_AcceptReplicas(b->session, BYTES_OF(offer)), KMS_R_REPLICATION_REFUSED);
    OK(RECEIVE(a, &offer, &shipment));
    /* An offer is answered once, a shipment is opened by its own offer. */
    CHECK_RV(RECEIVE(a, &offer, &scratch), KMS_R_REPLICATION_REFUSED);
    CHECK_RV(exchange(kms->KMS_ConfirmReplicas, b, &shipment, &receipt), KMS_R_REPLICATION_REFUSED);
    shipment.bytes[shipment.len - 150] ^= 1;
    CHECK_RV(RECEIVE(b, &shipment, &receipt), KMS_R_REPLICATION_REFUSED);
    shipment.bytes[shipment.len - 150] ^= 1;
    OK(p11->C_Logout(b->session));
    CHECK_RV(RECEIVE(b, &shipment, &receipt), CKR_USER_NOT_LOGGED_IN);
    OK(login(b->session, CKU_USER, USER_PIN));
    CHECK_RV(RECEIVE(b, &shipment, &receipt), KMS_R_REPLICATION_REFUSED);
    /* Over again, it succeeds. */
    replicated(id);
    crosses(a, b, id);
}

static void run(const region *from, const region *to) {
    a = from, b = to;
    trust(a, b);
    trust(b, a);
    RUN(each_step_by_its_own_function);
    RUN(receiving_does_all_of_it);
    RUN(lengths_are_told_and_nothing_is_done);
    RUN(refusals);
}

int main(int argc, char **argv) {
    start(argc, argv);
    configure("[pin]\nmemory_kib = 1024\npasses = 1\n");
    find_kms();
    CHECK(kms->version.minor >= 3);
    OK(initialize());
    make_keys_token();
    found(&bern, founder() != NULL);
    found(&como, founder() != NULL);
    run(&bern, &como);
    if (founder()) {
        found(&davos, 0);
        run(&bern, &davos);
        run(&davos, &como);
    }
    OK(p11->C_Finalize(NULL));
    return finish();
}
